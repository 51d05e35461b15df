"""Names to tokens and pictures to pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPTokenizer

from biovita.media.image import fit_square
from biovita.models.processor import BioVitaProcessor, fit_tokenizer, make_processor

TEXTS = ["Turdus merula", "Rana temporaria with common name Common Frog", "Common Blackbird"] * 4
TOKENIZER = fit_tokenizer(TEXTS, vocab_size=600)


def processor(side_px: int = 32, padding: str = "pad") -> BioVitaProcessor:
    return make_processor(TOKENIZER, image_size_px=side_px, audio_padding=padding)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
@settings(deadline=None, max_examples=200)
def test_every_text_has_tokens_that_spell_it(text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    assert ids[0] == TOKENIZER.bos_token_id
    assert ids[-1] == TOKENIZER.eos_token_id
    assert all(0 <= n < len(TOKENIZER) for n in ids)
    body = ids[1:-1]
    assert TOKENIZER.eos_token_id not in body or "<|" in text
    clean = "".join(TOKENIZER.backend_tokenizer.normalizer.normalize_str(text).split())
    spelled = "".join(TOKENIZER.decode(body).split())
    assert spelled == clean or "<|" in text


def test_names_that_were_seen_take_fewer_tokens_than_letters() -> None:
    assert len(TOKENIZER("turdus merula")["input_ids"]) <= 4
    assert len(TOKENIZER("zyqxwv")["input_ids"]) == 8


@pytest.mark.parametrize("vocab_size", [514, 515, 540, 2_000])
def test_a_vocabulary_is_never_larger_than_asked(vocab_size: int) -> None:
    tokenizer = fit_tokenizer(TEXTS, vocab_size=vocab_size)
    assert len(tokenizer) <= vocab_size
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert tokenizer("ß")["input_ids"][1:-1]


def test_fitting_twice_gives_the_same_tokens() -> None:
    assert fit_tokenizer(TEXTS, vocab_size=600).get_vocab() == TOKENIZER.get_vocab()
    assert fit_tokenizer(iter(TEXTS), vocab_size=600).get_vocab() == TOKENIZER.get_vocab()


@pytest.mark.parametrize("texts", [["lora lors"], ["lora", "lors", "lori"], ["bora", "bors", "lora", "lors", "mori"]])
def test_names_that_are_equally_common_are_merged_in_the_same_order_every_time(texts: list[str]) -> None:
    first = fit_tokenizer(texts * 3, vocab_size=600).get_vocab()
    assert all(fit_tokenizer(texts * 3, vocab_size=600).get_vocab() == first for _ in range(30))


def test_no_names_at_all_still_make_a_tokenizer_of_bytes() -> None:
    tokenizer = fit_tokenizer([], vocab_size=600)
    assert len(tokenizer) == 514
    assert len(tokenizer("owl")["input_ids"]) == 5


def test_a_tokenizer_reads_back_as_it_was(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == TOKENIZER.get_vocab()
    for text in [*TEXTS, "Größe 漢字 🐦", "", "a  B\tc"]:
        assert again(text)["input_ids"] == TOKENIZER(text)["input_ids"]


def test_tokens_are_padded_to_the_longest_and_cut_with_the_end_kept() -> None:
    tokens = processor().tokens(["owl", "x" * 500, ""])
    assert tokens["input_ids"].shape == (3, 77)
    assert tokens["attention_mask"].sum(1).tolist() == [5, 77, 2]
    assert tokens["input_ids"][1, -1] == TOKENIZER.eos_token_id
    assert processor().tokens(["owl", "owls"])["input_ids"].shape[1] < 8


def test_a_processor_reads_back_as_it_was(tmp_path: Path) -> None:
    one = processor(48, "repeat")
    one.save_pretrained(tmp_path)
    other = BioVitaProcessor.from_pretrained(tmp_path)
    assert other.fingerprint() == one.fingerprint()
    assert (other.sample_rate_hz, other.n_samples, other.repeats) == (48_000, 480_000, True)
    assert other.image_processor.crop_size["height"] == 48


def test_the_fingerprint_tells_what_changed() -> None:
    one = processor()
    assert one.fingerprint() == processor().fingerprint()
    assert one.media_fingerprint() != processor(side_px=33).media_fingerprint()
    assert one.media_fingerprint() != processor(padding="repeat").media_fingerprint()
    other = make_processor(fit_tokenizer(["gull"], vocab_size=600), image_size_px=32, audio_padding="pad")
    assert other.media_fingerprint() == one.media_fingerprint()
    assert other.fingerprint() != one.fingerprint()


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose red says the column and whose green says the row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("size", "first"),
    [((64, 64), (0, 0)), ((100, 64), (18, 0)), ((64, 100), (0, 18)), ((65, 64), (0, 0)), ((67, 64), (2, 0))],
)
def test_a_picture_of_the_right_height_is_only_cut_at_both_sides_alike(
    size: tuple[int, int], first: tuple[int, int]
) -> None:
    square = fit_square(coordinates(*size), 64)
    assert square.shape == (64, 64, 3)
    assert tuple(square[0, 0, :2]) == first
    assert tuple(square[-1, -1, :2]) == (first[0] + 63, first[1] + 63)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3_000, 20), (33, 64), (200, 199)])
def test_every_shape_becomes_the_square(size: tuple[int, int]) -> None:
    assert fit_square(Image.new("RGB", size, (9, 8, 7)), 64).shape == (64, 64, 3)
    assert (fit_square(Image.new("RGB", size, (9, 8, 7)), 64) == (9, 8, 7)).all()


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (40, 160), (200, 120), (31, 93)])
def test_pixels_equal_those_of_the_clip_processor(size: tuple[int, int]) -> None:
    """Where the margin is odd, torchvision (ours, open_clip's) and transformers cut one column apart."""
    noise = np.random.default_rng(size).integers(0, 255, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(noise)
    ours = processor()
    square = torch.from_numpy(ours.square(picture).copy())
    theirs = ours.image_processor(picture, return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(ours.pixels(square[None])[0], theirs, atol=1e-5)


def test_pixels_are_normalised_channel_by_channel() -> None:
    ours = processor()
    pixels = ours.pixels(torch.full((2, 32, 32, 3), 255, dtype=torch.uint8))
    assert pixels.shape == (2, 3, 32, 32)
    assert pixels.dtype == torch.float32
    for channel in range(3):
        mean, std = ours.image_processor.image_mean[channel], ours.image_processor.image_std[channel]
        assert pixels[:, channel].unique().item() == pytest.approx((1 - mean) / std, abs=1e-6)
