"""`biovita doctor`: what is installed, what can be decoded, what is in the way."""

import importlib.util
import os
import platform
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from biovita.log import SETTINGS, emit

LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "av",
    "soundfile",
    "soxr",
    "pillow",
    "polars",
    "pyarrow",
)
HAZARDS = {
    "torchaudio": "transformers imports it, and a build that does not fit torch breaks every model; remove it",
    "torchvision": "transformers imports it, and a build that does not fit torch breaks every model; remove it",
}
FORMATS = (".wav", ".flac", ".mp3", ".m4a", ".jpg", ".png")


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Say what is installed, what is missing and what to do."""


def run_doctor(config: Doctor) -> int:
    """Print the findings; exit 2 when something stands in the way."""
    found = {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}
    device, problem = _device()
    formats = {suffix: _round_trip(suffix) for suffix in FORMATS}
    advice = [problem] if problem else []
    advice += [f"{name}: {why} ({trouble})" for name, why in HAZARDS.items() if (trouble := _trouble(name))]
    advice += [f"{name}: not installed; install biovita again" for name, number in found.items() if number is None]
    advice += [f"{suffix}: {outcome}" for suffix, outcome in formats.items() if outcome != "ok"]
    if SETTINGS.json:
        emit({"versions": found, "device": device, "n_cpus": os.cpu_count(), "formats": formats, "advice": advice})
    else:
        for name, number in found.items():
            print(f"{name:<14} {number or 'missing'}")
        print(f"{'device':<14} {device}")
        print(f"{'read + write':<14} {', '.join(f'{suffix} {outcome}' for suffix, outcome in formats.items())}")
        print("\n".join(f"! {line}" for line in advice) or "Nothing stands in the way.")
    return 2 if advice else 0


def _device() -> tuple[str, str]:
    """Name what torch computes on, and what keeps it from doing so."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return "none", f"torch does not import ({error}); install biovita again"
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0), ""
    return f"CPU, {torch.get_num_threads()} threads", ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _trouble(name: str) -> str:
    """Say why an optional neighbour that is installed does not import; empty when all is well."""
    if importlib.util.find_spec(name) is None:
        return ""
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _round_trip(suffix: str) -> str:
    """Write a file of this kind and read it back."""
    import numpy as np
    from PIL import Image

    from biovita.errors import MediaError
    from biovita.media.audio import SAMPLE_RATE_HZ, read_audio, write_audio
    from biovita.media.image import read_image, write_image

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"probe{suffix}"
        try:
            if suffix in (".jpg", ".png"):
                write_image(path, Image.new("RGB", (32, 24), "teal"))
                return "ok" if read_image(path).size == (32, 24) else "wrong size"
            tone = np.sin(np.arange(SAMPLE_RATE_HZ) * 0.1).astype(np.float32) / 2
            write_audio(path, tone, SAMPLE_RATE_HZ)
            return "ok" if read_audio(path).std() > 0.3 else "wrong sound"
        except (MediaError, OSError) as error:
            return str(error)
