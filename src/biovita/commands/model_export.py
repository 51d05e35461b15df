"""`biovita model export`: the towers of a model as ONNX files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from biovita.config import write_run
from biovita.log import SETTINGS, emit, say


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the three towers of a model as ONNX files, which onnxruntime and OpenVINO run on a CPU."""

    model: Positional[str]
    """Model folder or hub name."""
    out: Path
    """The new folder."""
    to: Literal["onnx", "onnx-int8"] = "onnx"
    """`onnx`: float32; `onnx-int8`: 8-bit integer products, a quarter of the size, and vectors a little off."""


def run_export(config: Export) -> None:
    """Write the folder, whole or not at all, and say how near its vectors are to the model's own."""
    from biovita.models.export import export_towers

    cosines = export_towers(config.model, config.out, int8=config.to == "onnx-int8")
    write_run(config.out, config)
    if SETTINGS.json:
        emit({"out": str(config.out), "to": config.to, "least_cosine": cosines})
    nearness = ", ".join(f"{tower} {cosine:.6f}" for tower, cosine in cosines.items())
    say(f"{config.out}: {config.model} as {config.to}; least cosine to the model itself: {nearness}")
