"""Why the towers are made fast the way they are: each choice alone, at full size, in time and in accuracy.

    python benchmarks/tower_choices.py FOLDER [--runs 5] [--compile] > table.md

FOLDER holds real recordings and photos. One thread; processor time, medians, the variants of a tower in turn. Weights
are drawn at random, of a trained model's size (encode_towers.py). Beside the cosine to float32 stands the error as a
part of the distance between two inputs, since random towers bring all inputs near each other.
"""

import argparse
import copy
import gc
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from encode_towers import full_size
from torch import nn
from torch.nn import functional
from transformers.models.clap.modeling_clap import ClapAudioAttention

from biovita.media.window import fit, read_onset
from biovita.models.encoder import Encoder
from biovita.models.mel import LogMel
from biovita.models.speed import OneDnnLinear, WindowAttention, prepare
from biovita.models.vita import BioVitaModel

N_INPUTS = {"audio": 4, "image": 2}
Run = Callable[[], torch.Tensor]


def inputs(encoder: Encoder, tower: str, folder: Path) -> torch.Tensor:
    n = N_INPUTS[tower]
    if tower == "image":
        squares = [encoder.square(path) for path in sorted(folder.rglob("*.jpg"))[::20][:n]]
        return encoder.processor.pixels(torch.stack([torch.from_numpy(square.copy()) for square in squares]))
    mel = LogMel(encoder.processor.feature_extractor)
    waves = [fit(read_onset(path), 480_000) for path in sorted(folder.rglob("*.mp3"))[::10][:n]]
    return torch.cat([mel(torch.from_numpy(wave)[None]) for wave in waves])


def fused(model: BioVitaModel) -> BioVitaModel:
    for module in model.audio_model.modules():
        if isinstance(module, ClapAudioAttention) and not isinstance(module.self, WindowAttention):
            module.register_module("self", WindowAttention(module.self))
    return model


def halved(model: BioVitaModel) -> BioVitaModel:
    """Cast everything before the projections."""
    model.audio_model.bfloat16()
    model.clip.vision_model.bfloat16()
    norms = (model.audio_model.audio_encoder.norm, model.clip.vision_model.post_layernorm)
    for norm in norms:
        norm.float().register_forward_pre_hook(lambda module, given: (given[0].float(), *given[1:]))
    return model


def with_mkl(model: BioVitaModel) -> BioVitaModel:
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, OneDnnLinear):
                plain = nn.Linear(layer.in_features, layer.out_features, device="meta")
                plain.weight, plain.bias = layer.weight, layer.bias
                for hook in layer._forward_hooks.values():
                    plain.register_forward_hook(hook)
                parent.register_module(name, plain)
    return model


def variants(encoder: Encoder, tower: str, given: torch.Tensor, compiled: bool) -> dict[str, Run]:
    def run(model: BioVitaModel, *, half: bool = False, autocast: bool = False) -> Run:
        x = given.bfloat16() if half else given

        def side() -> torch.Tensor:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return getattr(model, f"{tower}_vectors")(x)

        return side

    def same() -> BioVitaModel:
        """Copy the layers but not the weights, which would fill the memory."""
        return copy.deepcopy(encoder.model, {id(tensor): tensor for tensor in encoder.model.parameters()})

    def fresh() -> BioVitaModel:
        return copy.deepcopy(encoder.model)

    def eager() -> BioVitaModel:
        model = prepare(fresh(), precision="bf16")
        model.clip.vision_model.config._attn_implementation = "eager"
        return model

    found = {
        "plain fp32": run(encoder.model),
        "fp32 as prepared": run(prepare(same())),
        "the same without oneDNN": run(with_mkl(prepare(same()))),
        "bf16 as prepared": run(prepare(fresh(), precision="bf16")),
        "the same without oneDNN's own call": run(with_mkl(prepare(fresh(), precision="bf16"))),
        "bf16 for everything before the projections": run(halved(fresh()), half=tower == "audio"),
        "bf16 autocast": run(same(), autocast=True),
    }
    if tower == "audio":
        found["bf16 as prepared, fused attention"] = run(fused(prepare(fresh(), precision="bf16")))
    else:
        found["bf16 as prepared, plain attention"] = run(eager())
    if compiled:
        for precision in ("fp32", "bf16"):
            found[f"{precision} compiled"] = run(prepare(fresh(), precision=precision, compiled=True))
    return found


def timed(runs: dict[str, Run], n: int) -> dict[str, float]:
    """Time each in turn: median processor seconds, after one unmeasured round."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(n + 1):
        for name, run in runs.items():
            begin = time.process_time()
            run()
            if round_:
                taken[name].append(time.process_time() - begin)
    return {name: statistics.median(times) for name, times in taken.items()}


def layer_choices(n: int) -> None:
    conv = nn.Conv2d(3, 1024, 14, 14, bias=False)
    last = copy.deepcopy(conv).to(memory_format=torch.channels_last)
    pixels = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        found = timed({"patch convolution": lambda: conv(pixels), "channels last": lambda: last(pixels)}, n)
        for dtype in (torch.float32, torch.bfloat16):
            three = [OneDnnLinear(1024, 1024).to(dtype) for _ in range(3)]
            one, x = OneDnnLinear(1024, 3072).to(dtype), torch.randn(514, 1024).to(dtype)
            sides: dict[str, Run] = {
                f"query, key, value apart, {dtype}": lambda three=three, x=x: torch.cat([each(x) for each in three], 1),
                f"in one product, {dtype}": lambda one=one, x=x: one(x),
            }
            found |= timed(sides, n)
    print("\n| one layer of ViT-L/14, 2 pictures | ms |\n|---|---|")
    print("\n".join(f"| {name} | {1e3 * seconds:.2f} |" for name, seconds in found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes minutes")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for tower, title in (("audio", "HTS-AT"), ("image", "ViT-L/14")):
        encoder = full_size(tower)
        given = inputs(encoder, tower, args.folder)
        runs = variants(encoder, tower, given, args.compile)
        seconds = timed(runs, args.runs)
        plain = runs["plain fp32"]().double()
        apart = (plain[:, None] - plain).norm(dim=-1).sum() / (len(plain) * (len(plain) - 1))
        print(
            f"\n| {title}, batch {len(given)} | ms | 1 - cosine to plain fp32 | error / distance |\n|---|---|---|---|"
        )
        for name, run in runs.items():
            found = run().double()
            off = (1 - functional.cosine_similarity(found, plain)).max()
            error = (found - plain).norm(dim=-1).mean() / apart
            print(f"| {name} | {1e3 * seconds[name] / len(given):.1f} | {off:.1e} | {error:.4f} |", flush=True)
        del encoder, runs, plain
        gc.collect()
    layer_choices(args.runs)


if __name__ == "__main__":
    main()
