"""Prompts to tokens, pictures to pixels, sounds to 10 s waves; the settings live in the model folder."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import ClapFeatureExtractor, CLIPTokenizer, ProcessorMixin
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from biovita.files import sha256_json
from biovita.media.image import fit_square


class BioVitaProcessor(ProcessorMixin):
    """Settings and conversions of all three modalities, in transformers' own classes and files.

    Args:
        feature_extractor: CLAP's settings of the log-mel spectrogram (48 kHz, 10 s, 64 bands).
        image_processor: CLIP's settings of the picture (bicubic, centre crop, mean, standard deviation).
        tokenizer: CLIP's byte-level BPE.
    """

    def __init__(
        self, feature_extractor: ClapFeatureExtractor, image_processor: CLIPImageProcessorPil, tokenizer: CLIPTokenizer
    ) -> None:
        super().__init__(feature_extractor, image_processor, tokenizer)
        self.feature_extractor: ClapFeatureExtractor = feature_extractor
        self.image_processor: CLIPImageProcessorPil = image_processor
        self.tokenizer: CLIPTokenizer = tokenizer

    @property
    def sample_rate_hz(self) -> int:
        return self.feature_extractor.sampling_rate

    @property
    def n_samples(self) -> int:
        """Samples of one clip: 10 s at 48 kHz are 480,000."""
        return self.feature_extractor.nb_max_samples

    @property
    def repeats(self) -> bool:
        """Whether a clip shorter than 10 s is filled by repeating it; otherwise by zeros."""
        return self.feature_extractor.padding == "repeat"

    def tokens(self, texts: Sequence[str], n_tokens: int = 77) -> dict[str, torch.Tensor]:
        """Tokenise texts, cut at `n_tokens` and padded only to the longest of them (the towers are causal)."""
        batch = self.tokenizer(
            list(texts), padding="longest", truncation=True, max_length=n_tokens, return_tensors="pt"
        )
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def square(self, image: Image) -> np.ndarray:
        """Resize the shorter side (bicubic) and crop the centre: uint8, shape (side, side, 3)."""
        return fit_square(image, self.image_processor.crop_size["height"])

    def pixels(self, squares: torch.Tensor) -> torch.Tensor:
        """Normalise uint8 squares (batch, side, side, 3) to float32 (batch, 3, side, side)."""
        mean = torch.tensor(self.image_processor.image_mean, device=squares.device)
        std = torch.tensor(self.image_processor.image_std, device=squares.device)
        return ((squares.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()

    def fingerprint(self) -> str:
        """Hash all that decides what a file or a name becomes before the network; stored beside every vector."""
        return sha256_json([self.media_fingerprint(), self.tokenizer.get_vocab()])[:16]

    def media_fingerprint(self) -> str:
        """The same for sounds and pictures alone, which a new vocabulary leaves as they are."""
        mel = {key: getattr(self.feature_extractor, key) for key in _MEL_KEYS}
        image = {key: self.image_processor.to_dict()[key] for key in _IMAGE_KEYS}
        return sha256_json({"mel": mel, "image": image})[:16]


_MEL_KEYS = (
    "sampling_rate",
    "nb_max_samples",
    "hop_length",
    "fft_window_size",
    "feature_size",
    "frequency_min",
    "frequency_max",
    "padding",
)
_IMAGE_KEYS = ("crop_size", "size", "resample", "image_mean", "image_std")


def make_processor(tokenizer: CLIPTokenizer, *, image_size_px: int, audio_padding: str) -> BioVitaProcessor:
    """Make the processor of a model that starts from nothing: CLAP's released settings, CLIP's picture settings.

    Args:
        tokenizer: of the names.
        image_size_px: side of the square picture.
        audio_padding: what fills the rest of a clip shorter than 10 s: `pad`, zeros, as BioVITA's release does; or
            `repeat`, the sound again, a setting of CLAP's own (docs/decisions/0007).
    """
    return BioVitaProcessor(
        feature_extractor=ClapFeatureExtractor(
            feature_size=64, frequency_min=50, frequency_max=14_000, padding=audio_padding, truncation="rand_trunc"
        ),
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": image_size_px}, crop_size={"height": image_size_px, "width": image_size_px}
        ),
        tokenizer=tokenizer,
    )


def fit_tokenizer(texts: Iterable[str], *, vocab_size: int) -> CLIPTokenizer:
    """Fit CLIP's byte-level BPE to names; every other text still has tokens, byte by byte.

    Args:
        texts: what the vocabulary should be good at; only names that training may see.
        vocab_size: at most so many tokens; the 256 bytes, each also as the end of a word, and two special ones count.
    """
    special = ("<|startoftext|>", "<|endoftext|>")
    clip = CLIPTokenizer(vocab={token: n for n, token in enumerate(special)}, merges=[]).backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters += [f"{letter}</w>" for letter in letters]
    # Given as special tokens, the letters have numbers from the start. The trainer would else number the ends of words
    # as it meets them, in an order that changes from run to run, and it breaks ties between merges by number.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=letters, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    merges: list[Any] = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    merges = merges[: max(0, vocab_size - len(letters) - len(special))]
    words = dict.fromkeys([*letters, *("".join(pair) for pair in merges), *special])
    return CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=merges)
