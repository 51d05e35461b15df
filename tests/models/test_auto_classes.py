"""A folder of ours opened by transformers' own classes, as docs/models.md tells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from biovita.models import hub

WAVE = np.random.default_rng(1).normal(0, 0.1, 3 * 48_000).astype(np.float32)
PICTURE = Image.fromarray(np.random.default_rng(2).integers(0, 255, (60, 80, 3), np.uint8))
NAMES = ["Rana temporaria", "owl"]


@pytest.fixture(scope="module")
def used(lively: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was saved after its tokenizer was used, as every trained one is."""
    folder = tmp_path_factory.mktemp("used") / "model"
    lively.embed_text(NAMES)
    hub.save(lively, folder, card="# used\n")
    return folder


@torch.no_grad()
def test_processor_and_model_give_the_vectors_that_load_gives(used: Path) -> None:
    model, processor = AutoModel.from_pretrained(used), AutoProcessor.from_pretrained(used)
    encoder = hub.load(used)
    texts = processor(text=NAMES, padding=True, return_tensors="pt")
    pixels = processor(images=[PICTURE], return_tensors="pt")["pixel_values"]
    log_mel = processor(audio=[WAVE], sampling_rate=48_000, return_tensors="pt")["input_features"]
    for found, wanted in (
        (model.text_vectors(**texts), encoder.embed_text(NAMES)),
        (model.image_vectors(pixels), encoder.embed_image([PICTURE])),
        (model.audio_vectors(log_mel[:, 0]), encoder.embed_audio([(WAVE, 48_000)])),
    ):
        np.testing.assert_allclose(found.numpy(), wanted, atol=5e-6)
