"""Rows of encode.py: the towers at full size, and whole chains from a file to a vector.

    OPEN_CLIP=FOLDER python benchmarks/encode.py ...

FOLDER holds open_clip, which is the peer for pictures and names; its rows are left out without it. Made by
`pip install --target FOLDER --no-deps open_clip_torch==3.3.0 timm ftfy regex wcwidth torchvision==0.28.0`.

No published weights: they are drawn at random, of a trained model's size, and both sides have the same. The limit of a
row is a product of large matrices with as many operations, in the precision of ours: of side 2,048 and through oneDNN,
which is faster than torch's own way; on a GPU of side 8,192.
"""

import copy
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soxr
import torch
from encode_rows import Row, Setup, Side, Taken, Work, children, in_workers, timed
from PIL import Image
from transformers import ClapFeatureExtractor

from biovita.media.audio import SAMPLE_RATE_HZ
from biovita.media.window import fit, onset_s
from biovita.models import hub
from biovita.models.encoder import Encoder
from biovita.models.export import export_towers, load_exported
from biovita.models.mel import LogMel
from biovita.models.moves import send
from biovita.models.open_clip import moves_of
from biovita.models.processor import find_tokenizer, make_processor
from biovita.models.speed import HALVES, Precision, prepare
from biovita.models.vita import BioVitaConfig, BioVitaModel

Tower = str  # audio, image, text
DTYPES = {"fp32": torch.float32, **HALVES}
N_SAMPLES = 480_000
N_ITEMS = {"cpu": {"audio": 4, "image": 2, "text": 64}, "cuda": {"audio": 256, "image": 256, "text": 1024}}
N_FILES = {"cpu": {"audio": 8, "image": 4, "text": 64}, "cuda": {"audio": 2048, "image": 1024, "text": 14_133}}
SIDE = {"cpu": 2048, "cuda": 8192}
NAMES = (
    "Turdus merula", "a photo of Rana temporaria, the common frog", "Common Blackbird", "American Dipper",
    "Animalia Chordata Aves Passeriformes Cinclidae Cinclus mexicanus", "Canis lupus", "Gray Wolf", "Fulica americana",
)  # fmt: skip
OPERATORS: list[torch.library.Library] = []  # gone with these objects


def flop(tower: Tower, n_tokens: int = 257) -> float:
    """Operations of one forward pass: two for each multiplication in a linear layer or in attention."""
    if tower == "audio":
        return 11.8e9  # counted on the model, reference/performance.md
    width, n_layers = (1024, 24) if tower == "image" else (768, 12)
    return n_layers * (24 * n_tokens * width**2 + 4 * n_tokens**2 * width)


def draw(model: BioVitaModel) -> BioVitaModel:
    """Draw weights of a trained model's size: as they start, every input has nearly the same vector."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "relative_position_bias_table" in name:
                tensor.normal_(0, 1, generator=generator)
            elif tensor.dim() == 2 and "embedding" not in name:
                tensor.normal_(0, tensor.shape[1] ** -0.5, generator=generator)
            elif tensor.dim() == 1 and "norm" in name:
                tensor.normal_(1 if name.endswith("weight") else 0, 0.2, generator=generator)
    return model


def full_size(tower: Tower) -> Encoder:
    """Make a model with one tower of the paper's size, on the CPU; the other two are tiny, to save memory."""
    shapes = {
        size: json.loads((files("biovita.models") / "sizes" / f"{size}.json").read_text()) for size in ("tiny", "paper")
    }
    audio, vision, text = (shapes["paper" if tower == one else "tiny"] for one in ("audio", "image", "text"))
    if tower == "text" or os.environ.get("OPEN_CLIP"):
        open_clip()
        tokenizer = find_tokenizer(Path("none"), n_words=49_408, n_tokens=77)
    else:
        tokenizer = hub.start("tiny", NAMES, seed=1).processor.tokenizer
    ends = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    side = vision["clip_config"]["vision_config"]["image_size"]
    config = BioVitaConfig(
        audio_config=audio["audio_config"],
        clip_config={
            "projection_dim": 768,
            "vision_config": vision["clip_config"]["vision_config"],
            "text_config": text["clip_config"]["text_config"] | {"vocab_size": len(tokenizer)} | ends,
        },
        audio_projection=audio["audio_projection"],
    )
    processor = make_processor(tokenizer, image_size_px=side, audio_padding="pad")
    torch.manual_seed(1)  # what `draw` leaves alone must be the same in every row too
    return Encoder(model=draw(BioVitaModel(config)).eval(), processor=processor, name=f"{tower} at full size")


def moved(encoder: Encoder, setup: Setup, precision: Precision) -> Encoder:
    """Copy an encoder to the device and prepare the copy."""
    model = copy.deepcopy(encoder.model)
    torch.nn.Module.to(model, setup.device)
    return replace(encoder, model=prepare(model, precision=precision), precision=precision)


@cache
def open_clip() -> Any:
    """Import open_clip from its own folder, after transformers, which must not meet its torchvision."""
    sys.path.append(os.environ["OPEN_CLIP"])
    # the operators in torchvision's wheel do not load beside a CPU build of torch; nothing here calls them, but its
    # Python code says more about these two when it is imported
    OPERATORS.append(torch.library.Library("torchvision", "DEF"))
    for name in ("nms", "qnms"):
        OPERATORS[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module("open_clip")


def peer_clip(encoder: Encoder, setup: Setup, tower: Tower) -> torch.nn.Module:
    """Make open_clip's ViT-L/14 with our weights in one of its towers."""
    model = open_clip().create_model("ViT-L-14", precision="fp32").eval()
    clip = encoder.model.clip
    theirs = send(clip.state_dict(), moves_of(clip.config))
    theirs = {name: tensor for name, tensor in theirs.items() if name.startswith("visual.") == (tower == "image")}
    left_out = model.load_state_dict(theirs, strict=False)
    assert not left_out.unexpected_keys
    assert all(name.startswith("visual.") == (tower == "text") for name in left_out.missing_keys)
    if tower == "text":
        model.visual = None
        return model.to(setup.device)
    return model.visual.to(setup.device)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def peer_of(encoder: Encoder, setup: Setup, tower: Tower) -> tuple[str, Callable[..., torch.Tensor]]:
    """Name the peer of a tower and give its forward pass, in float32, on the same weights."""
    if tower == "audio":
        model = copy.deepcopy(encoder.model)
        torch.nn.Module.to(model, setup.device)
        return f"transformers {version('transformers')} fp32", model.audio_vectors
    clip, name = peer_clip(encoder, setup, tower), f"open_clip {version('open_clip_torch')} fp32"
    if tower == "image":
        return name, lambda pixels: unit(clip(pixels))
    return f"{name}, 77 tokens", lambda ids: unit(clip.encode_text(ids))


def inputs(encoder: Encoder, setup: Setup, tower: Tower) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Give what peer and ours take, on the device: the same but for text, which the peer fills up to 77 tokens."""
    n = N_ITEMS[setup.device.type][tower]
    if tower == "audio":
        mel = LogMel(encoder.processor.feature_extractor)
        both = (torch.cat([mel(torch.tensor(clip)[None]) for clip in islice(cycle(setup.clips), n)]).to(setup.device),)
        return both, both
    if tower == "image":
        squares = [encoder.square(path) for path in setup.photos[: min(n, 8)]]
        both = (encoder.processor.pixels(torch.from_numpy(np.stack([*islice(cycle(squares), n)]))).to(setup.device),)
        return both, both
    names = [*islice(cycle(NAMES), n)]
    ids = open_clip().get_tokenizer("ViT-L-14")(names).to(setup.device)
    return (ids,), tuple(tensor.to(setup.device) for tensor in encoder.processor.tokens(names).values())


def product(operations: float, dtype: torch.dtype, device: torch.device) -> Side:
    """Multiply two large matrices, with so many operations in all."""
    side = SIDE[device.type]
    a = torch.randn(max(1, round(operations / (2 * side**2))), side, device=device).to(dtype)
    b = torch.randn(side, side, device=device).to(dtype)
    return inference(by_onednn(a, b))


def inference(run: Callable[..., Any], *tensors: torch.Tensor) -> Side:
    def side(n: int) -> Any:
        with torch.inference_mode():
            return run(*tensors)

    return side


def off(theirs: Any, found: Any) -> float:
    """Say how far the directions are apart at most: 1 - cosine."""
    a, b = (torch.as_tensor(vectors).double().cpu() for vectors in (theirs, found))
    return float((1 - torch.nn.functional.cosine_similarity(a, b)).max())


def forward_row(tower: Tower, precision: Precision, goal: float | None) -> Row:
    def make(setup: Setup) -> Work:
        encoder = full_size(tower)
        name, peer = peer_of(encoder, setup, tower)
        theirs, mine = inputs(encoder, setup, tower)
        model = moved(encoder, setup, precision).model
        n = len(mine[0])
        operations = n * flop(tower, mine[0].shape[1] if tower == "text" else 257)
        return Work(
            name, inference(peer, *theirs), inference(getattr(model, f"{tower}_vectors"), *mine), off, "1 - cosine",
            product(operations, DTYPES[precision], setup.device), f"product of as many FLOP, {precision}", n_items=n,
        )  # fmt: skip

    trimmed = ", trimmed to the longest" if tower == "text" else ""
    return Row(f"{TITLES[tower]} forward {precision}{trimmed}", make, goal)


def exported_row(tower: Tower, engine: Any, *, int8: bool) -> Row:
    def make(setup: Setup) -> Work:
        encoder = full_size(tower)
        folder = setup.scratch / f"{tower}_{'int8' if int8 else 'fp32'}"
        if not folder.exists():
            hub.save(encoder, setup.scratch / f"{tower}_model", card="")
            export_towers(setup.scratch / f"{tower}_model", folder, int8=int8)
        _, mine = inputs(encoder, setup, tower)
        exported = load_exported(folder, engine=engine)
        run = [getattr(model, f"{tower}_vectors") for model in (encoder.model, exported.model)]
        name = f"torch {version('torch')} fp32, unprepared"
        return Work(
            name, inference(run[0], *mine), inference(run[1], *mine), off, "1 - cosine", n_items=len(mine[0])
        )  # fmt: skip

    return Row(f"{TITLES[tower]} in {engine} {'int8' if int8 else 'fp32'}", make)


def audio_chain(precision: Precision, goal: float | None) -> Row:
    def make(setup: Setup) -> Work:
        encoder = full_size("audio")
        name, tower = peer_of(encoder, setup, "audio")
        extractor: ClapFeatureExtractor = encoder.processor.feature_extractor
        n = N_FILES[setup.device.type]["audio"]
        paths = [*islice(cycle(setup.sounds["mp3"] if setup.device.type == "cuda" else setup.recordings), n)]
        batch = N_ITEMS[setup.device.type]["audio"]

        def by_librosa(n: int) -> np.ndarray:
            def read(path: Path) -> np.ndarray:
                wave, rate_hz = librosa.load(path, sr=None)
                wave = soxr.resample(wave, rate_hz, SAMPLE_RATE_HZ)
                start = round(onset_s(wave) * SAMPLE_RATE_HZ)
                return fit(wave[start : start + N_SAMPLES], N_SAMPLES)

            return in_workers(read, paths, setup.n_threads)

        def embed(waves: np.ndarray, n: int) -> torch.Tensor:
            vectors = []
            for begin in range(0, len(waves), batch):
                taken = extractor([*waves[begin : begin + batch]], sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
                mels = taken["input_features"].reshape(-1, 1001, 64).to(setup.device)
                with torch.inference_mode():
                    vectors.append(tower(mels))
            return torch.cat(vectors)

        loader, read = f"librosa {librosa.__version__}", by_librosa
        if setup.peer_python is not None:
            run = children(setup.peer_python, setup.n_threads)
            loader, read = run.versions["audio"], lambda n: run("onset", paths)
        ours = moved(encoder, setup, precision)
        return Work(
            f"{loader}, ClapFeatureExtractor, {name}",
            two_steps(read, embed, setup.device),
            lambda n: ours.embed_audio(paths, window="onset", batch_size=batch),
            off, "1 - cosine",
            product(len(paths) * flop("audio"), DTYPES[precision], setup.device), f"the tower's FLOP, {precision}",
            n_items=len(paths),
        )  # fmt: skip

    return Row(f"recording to vector, onset, {precision}", make, goal)


def two_steps(read: Side, embed: Callable[[Any, int], Any], device: torch.device) -> Side:
    """Join a step that may measure itself with one that is measured here."""

    def side(n: int) -> Taken:
        first = timed(read, n, device)
        second = timed(partial(embed, first.result), n, device)
        return Taken(second.result, first.cpu_s + second.cpu_s, first.wall_s + second.wall_s)

    return side


def image_chain(precision: Precision, goal: float | None) -> Row:
    def make(setup: Setup) -> Work:
        encoder = full_size("image")
        name, tower = peer_of(encoder, setup, "image")
        transform = import_module("open_clip.transform").image_transform(224, is_train=False)
        paths = [*islice(cycle(setup.photos), N_FILES[setup.device.type]["image"])]
        batch = N_ITEMS[setup.device.type]["image"]

        def read(path: Path) -> np.ndarray:
            with Image.open(path) as image:
                return transform(image).numpy()

        def peer(n: int) -> torch.Tensor:
            vectors = []
            for begin in range(0, len(paths), batch):
                pixels = torch.from_numpy(in_workers(read, paths[begin : begin + batch], setup.n_threads))
                with torch.inference_mode():
                    vectors.append(tower(pixels.to(setup.device)))
            return torch.cat(vectors)

        ours = moved(encoder, setup, precision)
        return Work(
            f"PIL, {name}", peer, lambda n: ours.embed_image(paths, batch_size=batch), off, "1 - cosine",
            product(len(paths) * flop("image"), DTYPES[precision], setup.device), f"the tower's FLOP, {precision}",
            n_items=len(paths),
        )  # fmt: skip

    return Row(f"photo to vector, {precision}", make, goal)


def text_chain(precision: Precision, goal: float | None) -> Row:
    def make(setup: Setup) -> Work:
        encoder = full_size("text")
        name, tower = peer_of(encoder, setup, "text")
        tokenise = open_clip().get_tokenizer("ViT-L-14")
        names = [*islice(cycle(NAMES), N_FILES[setup.device.type]["text"])]
        batch = N_ITEMS[setup.device.type]["text"]

        def peer(n: int) -> torch.Tensor:
            with torch.inference_mode():
                parts = (names[begin : begin + batch] for begin in range(0, len(names), batch))
                return torch.cat([tower(tokenise(part).to(setup.device)) for part in parts])

        ours = moved(encoder, setup, precision)
        longest = encoder.processor.tokens(names)["input_ids"].shape[1]
        return Work(
            name, peer, lambda n: ours.embed_text(names, batch_size=batch), off, "1 - cosine",
            product(len(names) * flop("text", longest), DTYPES[precision], setup.device),
            f"FLOP of {longest} tokens, {precision}", n_items=len(names),
        )  # fmt: skip

    return Row(f"name to vector, {precision}", make, goal)


def ceiling_row(name: str, make_ours: Callable[[torch.Tensor, torch.Tensor], Callable[[], torch.Tensor]]) -> Row:
    """Time one product of 2,048 (8,192) by torch in float32, and in another way: 17.2 (1,100) GFLOP."""

    def make(setup: Setup) -> Work:
        a, b = (torch.randn(SIDE[setup.device.type], SIDE[setup.device.type], device=setup.device) for _ in range(2))
        ours = make_ours(a, b)
        close: Callable[[Any, Any], float] = lambda x, y: float((x - y.float()).abs().max() / x.abs().max())  # noqa: E731
        return Work(
            "torch fp32", inference(lambda: a @ b), inference(ours), close, "of the largest",
            lambda n: a.clone(), f"copy of {2 * a.nbytes / 1e6:.0f} MB",
        )  # fmt: skip

    return Row(name, make)


def in_bf16(a: torch.Tensor, b: torch.Tensor) -> Callable[[], torch.Tensor]:
    x, y = a.bfloat16(), b.bfloat16()
    return lambda: x @ y


def by_onednn(a: torch.Tensor, b: torch.Tensor) -> Callable[[], torch.Tensor]:
    transposed = b.T.contiguous()
    if a.device.type != "cpu":
        return lambda: a @ b
    return lambda: torch.ops.mkldnn._linear_pointwise(a, transposed, None, "none", [], "")


TITLES = {"audio": "HTS-AT", "image": "ViT-L/14", "text": "text tower"}
AUDIO_ROWS = (
    ceiling_row("ceiling: square product, bf16", in_bf16),
    ceiling_row("ceiling: square product, fp32 by oneDNN", by_onednn),
    forward_row("audio", "fp32", None),
    forward_row("audio", "bf16", 1.9),
    exported_row("audio", "onnxruntime", int8=False),
    exported_row("audio", "openvino", int8=False),
    exported_row("audio", "onnxruntime", int8=True),
    audio_chain("fp32", None),
    audio_chain("bf16", 2.3),
)
CLIP_ROWS = (
    forward_row("image", "fp32", None),
    forward_row("image", "bf16", 1.8),
    exported_row("image", "onnxruntime", int8=False),
    exported_row("image", "openvino", int8=False),
    exported_row("image", "onnxruntime", int8=True),
    image_chain("fp32", None),
    image_chain("bf16", 1.8),
    forward_row("text", "fp32", 3.0),
    forward_row("text", "bf16", None),
    exported_row("text", "onnxruntime", int8=False),
    exported_row("text", "openvino", int8=False),
    exported_row("text", "onnxruntime", int8=True),
    text_chain("fp32", 3.0),
    text_chain("bf16", None),
)
ROWS: tuple[Row, ...] = AUDIO_ROWS + (CLIP_ROWS if os.environ.get("OPEN_CLIP") else ())
