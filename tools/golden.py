"""Write tests/models/golden.json: what two small models of fixed weights make of fixed sounds, pictures and names.

    .venv/bin/python tools/golden.py

Run it when a number is meant to change, and read the difference. Weights and inputs are arithmetic on a random stream
that numpy keeps frozen (`RandomState`), so that no release of a library changes them, and what changes is ours.
"""

import json
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from biovita.files import write_text
from biovita.models.encoder import Encoder
from biovita.models.processor import fit_tokenizer, make_processor
from biovita.models.vita import BioVitaConfig, BioVitaModel

FILE = Path(__file__).parents[1] / "tests" / "models" / "golden.json"
NAMES = ("Turdus merula", "Common Blackbird", "Rana temporaria", "Amphibia Anura Ranidae Rana Rana temporaria")
N_FIRST, N_SUMS = 8, 4


def make_encoder(audio_projection: str, audio_padding: str) -> Encoder:
    """Make a tiny model with the audio projection of the paper or of the release, and weights in which all count."""
    shape: dict[str, Any] = json.loads((files("biovita.models") / "sizes" / "tiny.json").read_text())
    if audio_projection == "adapter":
        shape["audio_config"]["projection_dim"] = 64
    tokenizer = fit_tokenizer(NAMES, vocab_size=540)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape["clip_config"]["text_config"] |= {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        **ends,
    }
    model = BioVitaModel(
        BioVitaConfig(
            audio_config=shape["audio_config"], clip_config=shape["clip_config"], audio_projection=audio_projection
        )
    )
    model.load_state_dict({name: weights(name, tensor) for name, tensor in model.state_dict().items()})
    side_px = shape["clip_config"]["vision_config"]["image_size"]
    processor = make_processor(tokenizer, image_size_px=side_px, audio_padding=audio_padding)
    return Encoder(model=model.eval(), processor=processor, name=audio_projection)


def weights(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Draw a tensor by its name, on a scale at which its layer has a say in the vector."""
    if not tensor.is_floating_point() or "logit_scale" in name:
        return tensor
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tensor.shape)
    if name.endswith("running_mean"):  # of dB
        noise = -40 + 5 * noise
    elif name.endswith("running_var"):
        noise = 300 + 30 * noise
    elif tensor.ndim >= 2:
        noise /= tensor[0].numel() ** 0.5
    else:
        noise = 0.1 * noise + name.endswith("weight")
    return torch.from_numpy(np.asarray(noise, np.float32))


def sounds() -> dict[str, tuple[np.ndarray, int]]:
    """Make sounds: shorter and longer than 10 s, with silence ahead, at our rate and at another."""
    chirp = np.arange(3 * 48_000) / 48_000
    call = np.arange(12 * 44_100) / 44_100
    noise = np.random.RandomState(7).standard_normal(15 * 48_000)
    return {
        "chirp": (0.5 * np.sin(2 * np.pi * (800 + 900 * chirp) * chirp), 48_000),
        "calls": (np.sin(2 * np.pi * 3_000 * call) * np.exp(-8 * (call % 0.7)) * (call > 1.5), 44_100),
        "noise": (0.05 * noise, 48_000),
    }


def pictures() -> dict[str, Image.Image]:
    """Make pictures: wide and high, larger and smaller than the model's square."""
    found = {}
    for name, height, width in (("wide", 97, 163), ("high", 71, 50)):
        y, x = np.indices((height, width))
        disc = (x - width / 3) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2
        colours = np.stack([255 * x // width, 255 * y // height, 200 * disc], axis=-1)
        found[name] = Image.fromarray(colours.astype(np.uint8))
    return found


def numbers(vector: np.ndarray) -> dict[str, list[float]]:
    """Describe a vector by its first components, and by sums in which each of the others counts."""
    n = np.arange(len(vector))
    sums = [float(np.float64(vector) @ np.cos(k * (n + 0.5))) for k in range(1, N_SUMS + 1)]
    return {"first": [float(value) for value in vector[:N_FIRST]], "sums": sums}


def compute() -> dict[str, Any]:
    """Embed everything: numbers by model, modality and item."""
    golden: dict[str, Any] = {}
    for projection, padding in (("direct", "repeat"), ("adapter", "pad")):
        encoder = make_encoder(projection, padding)
        golden[projection] = {
            "tokens": {name: encoder.processor.tokens([name])["input_ids"][0].tolist() for name in NAMES},
            "text": dict(zip(NAMES, map(numbers, encoder.embed_text(NAMES)), strict=True)),
            "image": dict(zip(pictures(), map(numbers, encoder.embed_image(list(pictures().values()))), strict=True)),
        }
        for window in ("onset", "centre", "windows"):
            found = encoder.embed_audio(list(sounds().values()), window=window)
            golden[projection][f"audio, {window}"] = dict(zip(sounds(), map(numbers, found), strict=True))
    return golden


def as_text(golden: dict[str, Any]) -> str:
    """Write JSON with seven decimals and one item a line, so that a difference is short to read."""
    rounded = json.loads(json.dumps(golden), parse_float=lambda digits: round(float(digits), 7))
    models = []
    for model, groups in rounded.items():
        rows = [
            f'    "{group}": {{\n'
            + ",\n".join(f"      {json.dumps(k)}: {json.dumps(v)}" for k, v in items.items())
            + "\n    }"
            for group, items in groups.items()
        ]
        models.append(f'  "{model}": {{\n' + ",\n".join(rows) + "\n  }")
    return "{\n" + ",\n".join(models) + "\n}\n"


if __name__ == "__main__":
    write_text(FILE, as_text(compute()))
