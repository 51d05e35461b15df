"""Gradient caching beside plain accumulation: time, memory, and the distance from the whole batch's gradient.

    python benchmarks/caching.py [--batch 1024] [--large 256 1024 4096] [--micro 32] [--runs 5] [--threads 1]

The tiny model, ATC, audio and text towers train, train/step.py with and without `recipe.micro_batch`. Accumulation runs
the towers once over each piece and compares only the items of a piece with each other; caching runs them twice, the
first time without a gradient, and compares all items of the batch. The batch norm is frozen and there is no dropout, so
the gradient of the whole batch is one and the same. Sounds are noise. Both sides in turn, medians of processor time.
Peak memory is that of a step in a child of its own, above the model and the inputs. Linux. Writes
docs/results/caching.md.
"""

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from loss import forget_peak, memory_bytes

from biovita.models import hub
from biovita.train.batches import Batch
from biovita.train.engine import Engine
from biovita.train.feed import Inputs
from biovita.train.loop import choose_trained, set_modes
from biovita.train.recipe import Recipe
from biovita.train.step import Step, part_of
from biovita.train.trainee import Trainee

PAGE = Path(__file__).parents[1] / "docs" / "results" / "caching.md"
TRAINED = ("audio_model.*", "audio_projection.*", "clip.text_model.*", "clip.text_projection.*", "logit_scale")
N_SPECIES = 500
WHOLE = 256  # items whose gradient is compared
WEIGHTS = {"at": 1.0, "ai": 0.0, "it": 0.0}


@dataclass(frozen=True)
class Sides:
    """The ways to a gradient, on one model and one batch.

    Attributes:
        model: what learns.
        whole: the batch at once.
        cached: the same, in pieces.
        accumulated: the pieces, each by itself.
    """

    model: torch.nn.Module
    whole: Callable[[], object]
    cached: Callable[[], object]
    accumulated: Callable[[], object]


def make(n: int, micro: int) -> Sides:
    names = [f"Genus{label % 50} species{label}" for label in range(N_SPECIES)]
    encoder = hub.start("tiny", names, seed=1)
    rng = np.random.default_rng(1)
    label = rng.integers(N_SPECIES, size=n)
    columns = {field.name: np.zeros(n, np.int64) for field in fields(Batch)}
    columns |= {"label": label, "audio": np.arange(n), "image": np.full(n, -1)}
    generator = torch.Generator().manual_seed(1)
    inputs = Inputs(
        batch=Batch(**columns),
        mels=torch.randn(n, 1001, 64, generator=generator).mul_(10).sub_(50),
        squares=None,
        tokens=encoder.processor.tokens([names[number] for number in label]),
        waited_s=0.0,
    )
    choose_trained(encoder.model, TRAINED)
    set_modes(encoder.model, freeze_batch_norm=True)
    accelerator, lineage = Engine(cpu=True).start(), np.arange(N_SPECIES)[:, None]

    def step(size: int) -> Step:
        recipe = Recipe(trained=TRAINED, batch_size=n, micro_batch=size, freeze_batch_norm=True)
        return Step(Trainee(encoder.model, recipe), encoder.processor, lineage, recipe, accelerator)

    at_once, in_pieces = step(0), step(micro)
    pieces = [slice(first, first + micro) for first in range(0, n, micro)]

    def accumulate() -> None:
        for piece in pieces:
            at_once.backward(part_of(inputs, piece), WEIGHTS, share=1 / len(pieces))

    return Sides(
        encoder.model,
        lambda: at_once.backward(inputs, WEIGHTS),
        lambda: in_pieces.backward(inputs, WEIGHTS),
        accumulate,
    )


def gradient(model: torch.nn.Module, work: Callable[[], object]) -> torch.Tensor:
    model.zero_grad()
    work()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def peak_bytes(n: int, micro: int, side: str, threads: int, answer: "multiprocessing.SimpleQueue[int]") -> None:
    torch.set_num_threads(threads)
    sides = make(n, micro)
    first = make(micro, micro)
    gradient(first.model, first.whole)  # loads what the first backward loads
    for parameter in sides.model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    before = memory_bytes("VmRSS")
    forget_peak()
    getattr(sides, side)()
    answer.put(memory_bytes("VmHWM") - before)


def in_a_child(n: int, micro: int, side: str, threads: int) -> float:
    spawn = multiprocessing.get_context("spawn")
    answer: multiprocessing.SimpleQueue[int] = spawn.SimpleQueue()
    child = spawn.Process(target=peak_bytes, args=(n, micro, side, threads, answer))
    child.start()
    found = answer.get()
    child.join()
    return found / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--large", nargs="+", type=int, default=[256, 1024, 4096])
    parser.add_argument("--micro", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    small = make(WHOLE, args.micro)
    wanted = gradient(small.model, small.whole)
    off = float((gradient(small.model, small.cached) - wanted).norm() / wanted.norm())
    apart = float((gradient(small.model, small.accumulated) - wanted).norm() / wanted.norm())
    sides = make(args.batch, args.micro)
    times: dict[str, list[float]] = {"accumulated": [], "cached": []}
    for run in range(args.runs + 1):
        for name, taken in times.items():
            sides.model.zero_grad()
            began = time.process_time()
            getattr(sides, name)()
            if run:  # the first warms up
                taken.append(time.process_time() - began)
    seconds = {name: statistics.median(taken) for name, taken in times.items()}
    ratio = seconds["cached"] / seconds["accumulated"]
    print(f"{seconds}, {ratio:.2f}", flush=True)
    lines = []
    for n in args.large:
        ways = ("cached", "accumulated") + (("whole",) if n <= WHOLE else ())
        found = [in_a_child(n, args.micro, way, args.threads) for way in ways]
        cells = [f"{megabytes:,.0f}" for megabytes in found] + ["not run"] * (3 - len(ways))
        lines.append(f"| {n:,} | {n * 1001 * 64 * 4 / 1e6:,.0f} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    PAGE.write_text(
        "# Gradient caching beside plain accumulation\n\n"
        f"    python benchmarks/caching.py --batch {args.batch} --micro {args.micro} --runs {args.runs} "
        f"--threads {args.threads}\n\n"
        f"The tiny model, ATC, audio and text towers train, {args.micro} items at a time (`micro_batch`), fp32,\n"
        f"{args.threads} thread(s), processor time; torch {torch.__version__}, Python {platform.python_version()}.\n\n"
        "| | |\n|---|---|\n"
        f"| accumulation, batch {args.batch:,} | {seconds['accumulated']:.2f} s |\n"
        f"| caching | {seconds['cached']:.2f} s |\n"
        f"| caching / accumulation; goal: at most 1.45; 4/3 if backward costs twice forward | {ratio:.2f} |\n"
        f"| distance of the cached gradient from the whole batch's, relative, batch {WHOLE} | {off:.1e} |\n"
        f"| the same of accumulation, which compares fewer items | {apart:.2f} |\n\n"
        "Peak memory of a step above model and inputs, MB:\n\n"
        "| batch | inputs alone | caching | accumulation | the batch at once |\n|---|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main()
