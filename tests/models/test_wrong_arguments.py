"""What is no sound, picture or text never becomes a vector; the error says where it stands and what belongs there."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from biovita.errors import MediaError

WAVE = np.sin(np.arange(4_410) / 9).astype(np.float32) / 4
WRONG: dict[str, tuple[str, Any, str]] = {
    "no list": ("audio", None, "None stands alone; embed_audio takes a list of paths, or of pairs"),
    "nothing in a list": ("audio", [None], "number 0 is None"),
    "a wave without its rate": ("audio", [WAVE], r"number 0 is float32 array of shape \(4410,\)"),
    "a pair that is no list": ("audio", (WAVE, 44_100), "number 0 is float32 array"),
    "whole numbers": ("audio", [((WAVE * 32_767).astype(np.int16), 44_100)], r"number 0 is \(int16 array"),
    "two channels": ("audio", [(np.stack([WAVE, WAVE]), 44_100)], r"\(float32 array of shape \(2, 4410\), 44100\)"),
    "a tensor": ("audio", [(torch.tensor(WAVE), 44_100)], r"number 0 is \(Tensor, 44100\)"),
    "the rate first": ("audio", [(44_100, WAVE)], r"number 0 is \(44100, float32 array"),
    "no rate": ("audio", [(WAVE, 0)], r"of shape \(4410,\), 0\)"),
    "a rate that is no whole number": ("audio", [(WAVE, 44_100.0)], r"44100\.0\)"),
    "a list for a pair": ("audio", [[WAVE, 44_100]], "number 0 is list"),
    "a picture alone": ("image", Image.new("RGB", (9, 9)), "Image stands alone; embed_image takes a list"),
    "pixels": ("image", [Image.new("RGB", (9, 9)), np.zeros((9, 9, 3), np.uint8)], "number 1 is uint8 array of shape"),
    "a name that is missing": ("text", ["Rana", float("nan")], "number 1 is nan; embed_text takes a list of strings"),
    "bytes": ("text", [b"Rana"], "number 0 is bytes"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_belong_is_refused_at_its_place(encoder: Any, what: str) -> None:
    modality, things, said = WRONG[what]
    with pytest.raises(TypeError, match=said):
        getattr(encoder, f"embed_{modality}")(things)


def test_a_wave_of_either_float_and_any_whole_rate_is_taken(encoder: Any) -> None:
    one = encoder.embed_audio([(WAVE, 44_100)])
    assert (one * encoder.embed_audio([(WAVE.astype(np.float64), np.int64(44_100))])).sum() >= 1 - 1e-6


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"window": "center"}, "window 'center': unknown; it is one of 'onset', 'centre', 'windows'"),
        ({"pool": "median"}, "pool 'median': unknown; it is one of 'mean', 'max'"),
        ({"pool": None}, "pool None: unknown; it is one of 'mean', 'max'"),
        ({"batch_size": -1}, "batch_size -1: give at least 1"),
    ],
)
def test_a_setting_that_is_none_is_refused_and_not_taken_for_another(
    encoder: Any, how: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        encoder.embed_audio([(WAVE, 44_100)], **how)


def test_a_stream_says_so_too(encoder: Any) -> None:
    streams: list[Callable[[], Any]] = [
        lambda: encoder.stream([("text", "a")], window="all"),
        lambda: encoder.stream([("text", "a")], pool="sum"),
    ]
    for stream in streams:
        with pytest.raises(ValueError, match="unknown; it is one of"):
            list(stream())


def test_a_picture_without_pixels_is_refused(encoder: Any) -> None:
    with pytest.raises(MediaError, match="too_small: a picture of 0 x 5 pixels"):
        encoder.embed_image([Image.new("RGB", (0, 5))])
