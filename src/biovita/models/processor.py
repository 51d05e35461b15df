"""Prompts to tokens, pictures to pixels, sounds to 10 s waves; the settings live in the model folder."""

import gzip
import json
from collections.abc import Iterable, Sequence
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ftfy import fix_text
from PIL.Image import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoProcessor, ClapFeatureExtractor, CLIPTokenizer, ProcessorMixin
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils.hub import cached_file

from biovita.errors import ModelError
from biovita.files import sha256_json
from biovita.media.image import fit_square
from biovita.media.window import fit
from biovita.models.vita import BioVitaConfig

CLIP_TOKENIZER = "openai/clip-vit-large-patch14"  # on the model hub
CLIP_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"  # the same in an installed open_clip
CLIP_N_WORDS = 49_408
ENDS = ("<|startoftext|>", "<|endoftext|>")


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
        # A tokenizer that was saved after use brings the length of texts, to which transformers would cut sounds, too.
        tokenizer.init_kwargs.pop("max_length", None)
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

    def fill(self, clip: np.ndarray) -> np.ndarray:
        """Bring a clip to `n_samples`: cut its end off, or fill it up as the folder says.

        `pad` takes zeros; `repeat` the sound again, to the last sample; `repeatpad`, CLAP's own rule, the whole sound
        again as often as there is room, then zeros.
        """
        if self.repeats:
            return np.resize(clip, self.n_samples)
        if self.feature_extractor.padding == "repeatpad":
            clip = np.tile(clip, max(1, self.n_samples // len(clip)))
        return fit(clip, self.n_samples)

    def tokens(self, texts: Sequence[str], n_tokens: int = 77) -> dict[str, torch.Tensor]:
        """Tokenise texts, cut at `n_tokens` and padded only to the longest of them (the towers are causal).

        Broken Unicode, typographic quotes and HTML entities are mended first, as by CLIP's own tokenizer.
        """
        n_tokens = min(n_tokens, self.tokenizer.model_max_length)
        batch = self.tokenizer(
            [unescape(unescape(fix_text(text))) for text in texts],
            padding="longest",
            truncation=True,
            max_length=n_tokens,
            return_tensors="pt",
        )
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def square(self, image: Image) -> np.ndarray:
        """Resize the shorter side (bicubic) and crop the centre: uint8, shape (side, side, 3)."""
        return fit_square(image, self.image_processor.crop_size["height"])

    def pixels(self, squares: torch.Tensor) -> torch.Tensor:
        """Normalise uint8 squares (batch, side, side, 3) to float32 (batch, 3, side, side)."""
        mean = torch.tensor(self.image_processor.image_mean, device=squares.device)
        std = torch.tensor(self.image_processor.image_std, device=squares.device)
        planes = squares.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return planes.sub_(mean[:, None, None]).div_(std[:, None, None])

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
    return BioVitaProcessor(clap_settings(audio_padding), clip_settings(image_size_px), tokenizer)


def clap_settings(padding: str) -> ClapFeatureExtractor:
    """Make the settings of the log-mel that CLAP's released checkpoint has; the class's own default is 0 Hz."""
    return ClapFeatureExtractor(
        feature_size=64, frequency_min=50, frequency_max=14_000, padding=padding, truncation="rand_trunc"
    )


def clip_settings(side_px: int, **colours: Any) -> CLIPImageProcessorPil:
    """Make CLIP's picture settings; `image_mean` and `image_std` may be others than CLIP's."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": side_px}, crop_size={"height": side_px, "width": side_px}, **colours
    )


def find_tokenizer(folder: Path, *, n_words: int, n_tokens: int, named: str | None = None) -> CLIPTokenizer:
    """Find the tokenizer that a text tower was trained with: the folder's own, else CLIP's vocabulary; never a guess.

    CLIP's vocabulary comes from the hub's cache, else from an installed open_clip, else from the hub.

    Args:
        folder: a model in open_clip's layout.
        n_words: size of the tower's vocabulary.
        n_tokens: most tokens of a text.
        named: hub id of the tokenizer, if the folder says one.

    Raises:
        ModelError: there is none, or it is not of this tower.
    """
    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        tokenizer = _tokenizer_at(folder)
    elif n_words != CLIP_N_WORDS or named not in (None, CLIP_TOKENIZER):
        whose = f"its tokenizer is {named}" if named else f"its {n_words:,} words are not CLIP's vocabulary"
        raise ModelError(f"{folder}: has no tokenizer.json, and {whose}; put the file into the folder")
    else:
        tokenizer = _hub_tokenizer(local_files_only=True) or _installed_tokenizer() or _hub_tokenizer()
        if tokenizer is None:
            raise ModelError(
                f"{folder}: has no tokenizer.json, and CLIP's vocabulary is neither in the hub's cache nor in an "
                f"installed open_clip; put tokenizer.json of {CLIP_TOKENIZER} into the folder"
            )
    # open_clip takes a text's vector at its highest token, which must therefore be the last word of the vocabulary.
    if (len(tokenizer), tokenizer.eos_token_id) != (n_words, n_words - 1):
        raise ModelError(
            f"{folder}: its tokenizer has {len(tokenizer):,} words and ends a text with {tokenizer.eos_token_id}; "
            f"the text tower has {n_words:,} and ends with {n_words - 1}"
        )
    tokenizer.model_max_length = n_tokens
    return tokenizer


def _tokenizer_at(folder: Path) -> CLIPTokenizer:
    try:
        return CLIPTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: its tokenizer cannot be read as CLIP's byte-level BPE: {error}") from error


def _hub_tokenizer(**options: Any) -> CLIPTokenizer | None:
    """Take CLIP's tokenizer from the hub; asked by file, because a repository that lacks it loads as an empty one."""
    try:
        path = cached_file(CLIP_TOKENIZER, "tokenizer.json", **options)
    except OSError:
        return None
    return _tokenizer_at(Path(path).parent) if path else None


def _installed_tokenizer() -> CLIPTokenizer | None:
    """Build the tokenizer from the vocabulary that open_clip carries, without importing it."""
    spec = find_spec("open_clip")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / CLIP_VOCABULARY
        if path.is_file():
            return read_merges(path, n_words=CLIP_N_WORDS)
    return None


def read_merges(path: Path, *, n_words: int) -> CLIPTokenizer:
    """Build CLIP's tokenizer from its list of merges; the first line is a title, and surplus lines are not words."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    letters = _letters()
    return _tokenizer_of(letters, [tuple(line.split()) for line in lines[1 : n_words - len(letters) - len(ENDS) + 1]])


def fit_tokenizer(texts: Iterable[str], *, vocab_size: int) -> CLIPTokenizer:
    """Fit CLIP's byte-level BPE to names; every other text still has tokens, byte by byte.

    Args:
        texts: what the vocabulary should be good at; only names that training may see.
        vocab_size: at most so many tokens; the 256 bytes, each also as the end of a word, and two special ones count.
    """
    clip = CLIPTokenizer(vocab={token: n for n, token in enumerate(ENDS)}, merges=[]).backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    letters = _letters()
    # Given as special tokens, the letters have numbers from the start. The trainer would else number the ends of words
    # as it meets them, in an order that changes from run to run, and it breaks ties between merges by number.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=letters, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    merges: list[Any] = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    return _tokenizer_of(letters, merges[: max(0, vocab_size - len(letters) - len(ENDS))])


def _letters() -> list[str]:
    """List the 256 bytes as CLIP writes them, then each as the end of a word."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return letters + [f"{letter}</w>" for letter in letters]


def _tokenizer_of(letters: list[str], merges: list[Any]) -> CLIPTokenizer:
    """Number the words as CLIP does: letters, merges in their order, the two ends of a text."""
    words = dict.fromkeys([*letters, *("".join(pair) for pair in merges), *ENDS])
    return CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=merges)


AutoProcessor.register(BioVitaConfig, BioVitaProcessor)
