"""The three towers as ONNX files, for processors that run them with onnxruntime or OpenVINO; also with int8 weights.

What that gains in speed and costs in accuracy is measured in docs/results/towers.md. Every exported tower is compared
with the model that it came from before its folder is finished, and refused beyond the bounds below.
"""

import gc
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from biovita.errors import ModelError
from biovita.files import read_manifest, write_manifest
from biovita.log import progress
from biovita.models.encoder import Encoder
from biovita.models.hub import load_encoder
from biovita.models.processor import BioVitaProcessor
from biovita.models.vita import FRAMES, BioVitaConfig, BioVitaModel

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401 - torch.onnx.export needs it
    import openvino
    from onnxruntime.quantization import QuantType, quantize_dynamic
except ImportError as error:
    raise ModelError("ONNX files: a library for them is not installed; pip install 'biovita[export]'") from error

Engine = Literal["onnxruntime", "openvino"]
Tower = Literal["audio", "image", "text"]
Run = Callable[..., torch.Tensor]
KIND, SCHEMA_VERSION = "biovita-onnx", 1
LEAST_COSINE = {"fp32": 1 - 1e-6, "int8": 0.998}  # to the model's own vectors
N_PROBE = 8  # random inputs that are compared


def export_towers(name: str | Path, out: Path, *, int8: bool = False) -> dict[Tower, float]:
    """Write the towers of a model as ONNX, with its processor; batches, and the length of text, may have any size.

    Args:
        name: a BioVITA model folder, or the name of one on the hub.
        out: the new folder, whole or not at all.
        int8: multiply in 8-bit integers, whose scale is found per batch (dynamic quantisation).

    Returns:
        The least cosine of each tower's vectors to the model's own, on random input; the manifest tells it too.

    Raises:
        ModelError: the model cannot be read, the folder exists, or a tower is further off than `LEAST_COSINE`.
    """
    if out.exists():
        raise ModelError(f"{out}: exists; remove it, or choose another folder")
    encoder = load_encoder(name, device="cpu")
    model, precision = encoder.model, "int8" if int8 else "fp32"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.part-") as scratch:
        part = Path(scratch) / "towers"
        model.config.save_pretrained(part)
        encoder.processor.save_pretrained(part)
        cosines = {}
        for tower in progress(get_args(Tower), "export", unit="towers"):
            example = _example(model.config, tower)
            _write_tower(model, tower, example, part / f"{tower}.onnx", int8=int8)
            found = _open_onnxruntime(part / f"{tower}.onnx")(*example)
            with torch.inference_mode():
                wanted = getattr(model, f"{tower}_vectors")(*example)
            cosines[tower] = float(functional.cosine_similarity(found.double(), wanted.double()).min())
            if not cosines[tower] >= LEAST_COSINE[precision]:
                raise ModelError(
                    f"{name}: {tower} in {precision} has cosine {cosines[tower]:.6f} to the model itself, less than "
                    f"{LEAST_COSINE[precision]}" + ("; export without int8" if int8 else "")
                )
        write_manifest(
            part,
            sorted(path.name for path in part.iterdir()),
            kind=KIND,
            schema=SCHEMA_VERSION,
            name=encoder.name,
            weights_sha256=encoder.weights_sha256,
            precision=precision,
            least_cosine=cosines,
        )
        part.rename(out)
    return cosines


def load_exported(folder: Path, *, engine: Engine = "onnxruntime") -> Encoder:
    """Load what `export_towers` wrote; it embeds like the model that it came from, on the CPU.

    It takes as many threads as torch has now.

    Args:
        folder: of `export_towers`.
        engine: what runs the towers. `openvino` is for fp32 only: it runs int8 slower.

    Raises:
        ModelError: no such engine, or the folder is something else.
        DatasetError: the folder is unfinished or damaged.
    """
    folder = Path(folder)
    if engine not in get_args(Engine):
        raise ModelError(f"engine '{engine}': unknown; it is one of {', '.join(get_args(Engine))}")
    manifest = read_manifest(folder, verify=True)
    if (manifest.get("kind"), manifest.get("schema")) != (KIND, SCHEMA_VERSION):
        raise ModelError(f"{folder}: no exported towers of this version; make them with `biovita model export`")
    if manifest["precision"] == "int8" and engine == "openvino":
        raise ModelError(
            f"{folder}: int8 towers, which OpenVINO runs slower than fp32; use onnxruntime, or export fp32"
        )
    run = _open_onnxruntime if engine == "onnxruntime" else _open_openvino
    towers = {tower: run(folder / f"{tower}.onnx") for tower in get_args(Tower)}
    model = ExportedModel(BioVitaConfig.from_pretrained(folder), towers)
    return Encoder(
        model=cast(BioVitaModel, model),
        processor=BioVitaProcessor.from_pretrained(folder),
        name=manifest["name"],
        weights_sha256=manifest["weights_sha256"],
        folder=folder,
        precision=manifest["precision"],
    )


@dataclass(frozen=True)
class ExportedModel:
    """Stands in an encoder where a BioVitaModel stands otherwise."""

    config: BioVitaConfig
    towers: dict[Tower, Run]
    device = torch.device("cpu")

    def audio_vectors(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Embed sounds: log-mel in dB, shape (batch, 1001, 64)."""
        return self.towers["audio"](log_mel)

    def image_vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed pictures: normalised pixels, shape (batch, 3, side, side)."""
        return self.towers["image"](pixels)

    def text_vectors(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed names: token ids and mask, shape (batch, n_tokens)."""
        return self.towers["text"](input_ids, attention_mask)


class _Tower(nn.Module):
    """One method of the model as a module, which is what the exporter takes."""

    def __init__(self, model: BioVitaModel, tower: Tower) -> None:
        super().__init__()
        self.model = model
        self.method = f"{tower}_vectors"

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return getattr(self.model, self.method)(*tensors)


def _example(config: BioVitaConfig, tower: Tower) -> tuple[torch.Tensor, ...]:
    """Make random input of a tower: noise, and ids with padding."""
    audio, clip = cast(Any, config.audio_config), cast(Any, config.clip_config)
    draw = torch.Generator().manual_seed(0)
    if tower == "audio":
        return (torch.randn(N_PROBE, FRAMES, audio.num_mel_bins, generator=draw) * 15 - 40,)
    if tower == "image":
        side = clip.vision_config.image_size
        return (torch.randn(N_PROBE, 3, side, side, generator=draw),)
    ids = torch.randint(0, clip.text_config.vocab_size, (N_PROBE, N_PROBE + 1), generator=draw)
    is_word = torch.arange(N_PROBE + 1) <= torch.arange(1, N_PROBE + 1)[:, None]
    ids[~is_word | is_word.cumsum(1).eq(is_word.sum(1, keepdim=True))] = clip.text_config.eos_token_id
    return ids, is_word.long()


def _write_tower(
    model: BioVitaModel, tower: Tower, example: tuple[torch.Tensor, ...], path: Path, *, int8: bool
) -> None:
    free = torch.export.Dim.DYNAMIC
    shapes = tuple({0: free, 1: free} if tower == "text" else {0: free} for _ in example)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter misses torchvision, and the quantiser wants advice followed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            program = torch.onnx.export(_Tower(model, tower), example, dynamic_shapes=(shapes,), verbose=False)
        assert program
        if int8:
            _quantise(program, path)
        else:
            program.save(path)
    finally:
        logging.disable(before)
    gc.collect()  # the program holds a copy of the weights, in a ring


def _quantise(program: torch.onnx.ONNXProgram, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole = Path(scratch) / path.name
        program.save(whole)
        graph = onnx.load(whole)
        del graph.graph.value_info[:]  # some shapes that the exporter notes are wrong, and the quantiser stops at them
        quantize_dynamic(graph, path, weight_type=QuantType.QInt8, per_channel=True)


def _open_onnxruntime(path: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        arrays = (tensor.numpy() for tensor in tensors)
        return torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0])

    return run


def _open_openvino(path: Path) -> Run:
    hints = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # else it takes bf16 where the processor can
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(path, "CPU", hints)

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.array(compiled([tensor.numpy() for tensor in tensors])[0]))

    return run
