"""A training step of the full-size model beside one written the way the released code does it: samples a second.

    OPEN_CLIP=FOLDER python benchmarks/train_step.py DATASET [--device cpu] [--batch 8] [--threads 2] [--runs 3]

DATASET is a dataset folder of real files with sounds and pictures of at least `--batch` species: docs/results/
train_step.md says how to build it. FOLDER holds open_clip, for CLIP's vocabulary (encode_towers.py). HTS-AT, ViT-L/14
and the 12-layer text tower with weights drawn at random, of a trained model's size, the same on both sides.

- Released: librosa reads each recording whole, PIL each picture; ClapFeatureExtractor (numpy, on the CPU) inside
  forward; texts of 77 tokens; frozen towers run at every step; the plain matrix of logits; float32; one thing after the
  other; CLAP's unused RoBERTa in memory and in the optimiser. Two things are to its disadvantage: the release reads
  in workers, and on a GPU its stage 1 runs in fp16. The table has the step without reading beside it.
- Ours: train/step.py on features kept beside the dataset, frozen towers from the bank, texts cut to the longest; in
  bf16, in fp32, and in bf16 with files decoded at every draw by two workers, who read ahead.

Stage 1: ATC, the audio tower trains. Stage 2: ATC, AIC and ITC, audio and text towers train, the image tower is frozen.
Each side is a process of its own, has the same batches, and waits while the other works; medians. The first steps of
a turn, which a worker had time to prepare, are not counted. Prints a page. Linux.
"""

import argparse
import json
import logging
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from importlib.resources import files
from itertools import cycle
from multiprocessing.connection import Connection
from os import environ
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
from encode_towers import draw
from loss import forget_peak, memory_bytes
from PIL import Image
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import ClapTextConfig, ClapTextModel

from biovita.media.window import fit
from biovita.models.encoder import Encoder
from biovita.models.processor import find_tokenizer, make_processor
from biovita.models.vita import BioVitaConfig, BioVitaModel
from biovita.taxonomy.prompts import training_prompts
from biovita.taxonomy.taxon import Taxon
from biovita.train.banks import fill_banks
from biovita.train.batches import Batch, Sampler
from biovita.train.engine import Engine
from biovita.train.features import Features, prepare
from biovita.train.feed import Feed
from biovita.train.loop import choose_trained, make_optimizer, set_modes
from biovita.train.recipe import Recipe
from biovita.train.schedule import weights_at
from biovita.train.source import Originals, open_data
from biovita.train.step import Step
from biovita.train.trainee import Trainee
from biovita.train.work import product_rate

N_BATCHES = 4
N_SAMPLES, RATE_HZ = 480_000, 48_000
WARM = 5  # steps of ours that begin a turn and are not counted: as many as workers have ready, and one
TURN = 3  # steps of ours in a turn that are
REST_S = 3.0  # between two turns, in which workers finish what they have begun
AUDIO = ("audio_model.*", "audio_projection.*", "audio_adapter.*", "logit_scale")
TRAINED = {1: AUDIO, 2: (*AUDIO, "clip.text_model.*", "clip.text_projection.*")}
MODES = {
    "bf16": "ours, bf16",
    "fp32": "ours, fp32",
    "decoded": "ours, bf16, files decoded at every draw",
}
GOALS = {"cpu": 2, "cuda": 4}
Seconds = dict[str, float]


@dataclass(frozen=True)
class Setup:
    """What both sides are given."""

    dataset: Path
    scratch: Path
    stage: int
    batch: int
    threads: int
    device: str

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            stage=f"stage{self.stage}",
            audio_image=0.1 * (self.stage == 2),
            image_text=0.1 * (self.stage == 2),
            trained=TRAINED[self.stage],
            batch_size=self.batch,
            precision="bf16",
            same_species="negative",
            flip_images=False,
            shift_audio=False,
        )


class Side:
    """One way to make a step, in a process of its own.

    Attributes:
        setup: what both sides are given.
        encoder: the full-size model on the device.
        features: decoded media; the released way takes only their list from it.
        prompts: training texts by species.
        batches: the same on both sides; every item has a sound and a picture.
    """

    def __init__(self, setup: Setup) -> None:
        torch.set_num_threads(setup.threads)
        self.setup, self.recipe = setup, setup.recipe
        self.device = torch.device(setup.device)
        self.encoder = full_size()
        self.data = open_data(setup.dataset)
        self.features = prepare(self.data, self.encoder)
        taxa = {row["species"]: Taxon.from_row(row) for row in self.data.taxa.iter_rows(named=True)}
        self.prompts = [training_prompts(taxa[species]) for species in self.features.species]
        self.batches = whole_batches(self.features, self.recipe)
        torch.nn.Module.to(self.encoder.model, self.device)

    def turn(self, mode: str) -> list[Seconds]:
        """Make steps; return the seconds of each one's parts."""
        raise NotImplementedError

    def vectors(self) -> dict[str, np.ndarray]:
        """Embed the first batch without dropout, to see that both sides do the same work."""
        raise NotImplementedError

    def flops(self) -> float:
        """Count the operations of a step."""
        with FlopCounterMode(display=False) as counter:
            self.turn("bf16")
        return counter.get_total_flops() / self.n_steps

    n_steps = 1  # of a turn

    def memory(self) -> float:
        """Measure the most that a step holds, weights and all, in bytes."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.turn("bf16")
            return float(torch.cuda.max_memory_allocated())
        forget_peak()
        self.turn("bf16")
        return float(memory_bytes("VmHWM"))

    def peaks(self) -> tuple[float, float]:
        """Measure products of large matrices in fp32 and bf16, in operations a second."""
        return product_rate(self.device, torch.float32), product_rate(self.device, torch.bfloat16)

    @contextmanager
    def clock(self, seconds: Seconds, part: str) -> Iterator[None]:
        self.wait()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wait()
        seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - wall
        seconds["cpu"] = seconds.get("cpu", 0.0) + time.process_time() - cpu

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Released(Side):
    """One thing after the other, as the released code."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.model = self.encoder.model
        choose_trained(self.model, TRAINED[setup.stage])
        set_modes(self.model, freeze_batch_norm=False)
        self.roberta = ClapTextModel(ClapTextConfig())
        torch.nn.Module.to(self.roberta, self.device)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW([*trained, *self.roberta.parameters()], lr=1e-4, weight_decay=0.05)
        self.order = cycle(self.batches)
        self.paths = {
            modality: [setup.dataset / path for path in self.media(modality)] for modality in ("audio", "image")
        }

    def media(self, modality: str) -> list[str]:
        rows = self.features.media
        return rows.filter(modality=modality).sort("row")["path"].to_list()

    def read(self, batch: Batch) -> tuple[list[np.ndarray], torch.Tensor | None, dict[str, torch.Tensor]]:
        waves = [self.wave(row, shift) for row, shift in zip(batch.audio, batch.shift, strict=True)]
        pixels = torch.stack([self.picture(row) for row in batch.image]) if self.setup.stage == 2 else None
        texts = [self.prompts[label][form] for label, form in zip(batch.label, batch.prompt, strict=True)]
        found = self.encoder.processor.tokenizer(
            texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        )
        return waves, pixels, {"input_ids": found["input_ids"], "attention_mask": torch.ones_like(found["input_ids"])}

    def wave(self, row: int, shift: float) -> np.ndarray:
        whole, _ = librosa.load(self.paths["audio"][row], sr=RATE_HZ, mono=True)
        first = round(shift * max(0, len(whole) - N_SAMPLES) / 480) * 480
        return fit(whole[first : first + N_SAMPLES], N_SAMPLES)

    def picture(self, row: int) -> torch.Tensor:
        settings = self.encoder.processor.image_processor
        with Image.open(self.paths["image"][row]) as opened:
            image = opened.convert("RGB")
        factor = 224 / min(image.size)
        image = image.resize([max(224, int(factor * side)) for side in image.size], Image.Resampling.BICUBIC)
        left, top = (round((side - 224) / 2) for side in image.size)
        planes = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32).transpose(2, 0, 1) / 255
        mean, std = (
            np.array(values, np.float32)[:, None, None] for values in (settings.image_mean, settings.image_std)
        )
        return torch.from_numpy((planes - mean) / std)

    def extract(self, waves: list[np.ndarray]) -> torch.Tensor:
        found = self.encoder.processor.feature_extractor(waves, sampling_rate=RATE_HZ, return_tensors="pt")
        return found["input_features"][:, 0].to(self.device, torch.float32)

    def embed(self, mels: torch.Tensor, pixels: torch.Tensor | None, tokens: dict[str, torch.Tensor]) -> Any:
        found = {"a": self.model.audio_vectors(mels)}
        if pixels is not None:
            found["i"] = self.model.image_vectors(pixels.to(self.device))
        found["t"] = self.model.text_vectors(**{name: tensor.to(self.device) for name, tensor in tokens.items()})
        return found

    def loss(self, found: dict[str, torch.Tensor]) -> torch.Tensor:
        pairs = {"at": 1.0} | ({"ai": 0.1, "it": 0.1} if self.setup.stage == 2 else {})
        right = torch.arange(self.setup.batch, device=self.device)
        total = torch.zeros((), device=self.device)
        for (one, other), weight in pairs.items():
            logits = self.model.logit_scale.exp() * found[one] @ found[other].T
            total = (
                total
                + weight * (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2
            )
        return total

    def turn(self, mode: str) -> list[Seconds]:
        seconds: Seconds = {}
        with self.clock(seconds, "read and decode"):
            waves, pixels, tokens = self.read(next(self.order))
        with self.clock(seconds, "log-mel"):
            mels = self.extract(waves)
        with self.clock(seconds, "forward"):
            loss = self.loss(self.embed(mels, pixels, tokens))
        with self.clock(seconds, "backward"):
            self.optimizer.zero_grad()
            loss.backward()
        with self.clock(seconds, "optimiser"):
            if self.setup.stage == 2:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        return [seconds]

    def vectors(self) -> dict[str, np.ndarray]:
        self.model.eval()
        with torch.no_grad():
            waves, pixels, tokens = self.read(self.batches[0])
            found = self.embed(self.extract(waves), pixels, tokens)
        set_modes(self.model, freeze_batch_norm=False)
        return {letter: vectors.float().cpu().numpy() for letter, vectors in found.items()}


class Ours(Side):
    """The same calls as train/loop.py, with a clock between them."""

    n_steps = WARM + TURN

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        accelerator = Engine(cpu=setup.device == "cpu").start()
        model = self.encoder.model
        choose_trained(model, self.recipe.trained)
        banks = fill_banks(self.encoder, self.features, self.prompts, self.recipe, setup.scratch / "banks")
        self.trainee = Trainee(model, self.recipe)
        self.optimizer = make_optimizer(self.trainee, self.recipe)
        set_modes(model, freeze_batch_norm=False)
        self.step = Step(self.trainee, self.encoder.processor, self.features.lineage, self.recipe, accelerator, banks)
        self.weights = weights_at(0, 1, self.recipe)
        letters = {"a", "t"} - set(banks)
        sources = {"bf16": self.features, "decoded": Originals(self.data, self.encoder)}
        self.feeds = {
            mode: Feed(source, self.encoder.processor, self.prompts, self.recipe, letters)
            for mode, source in sources.items()
        }
        self.streams = {
            mode: feed.stream(cycle(self.batches), workers=2 * (mode == "decoded")) for mode, feed in self.feeds.items()
        }

    def turn(self, mode: str) -> list[Seconds]:
        self.trainee.precision = "fp32" if mode == "fp32" else "bf16"
        stream = self.streams["decoded" if mode == "decoded" else "bf16"]
        return [self.one_step(stream) for _ in range(self.n_steps)][WARM:]

    def one_step(self, stream: Iterator[Any]) -> Seconds:
        seconds: Seconds = {}
        with self.clock(seconds, "wait for data"):
            inputs = next(stream)
        with self.clock(seconds, "forward and backward"):
            self.optimizer.zero_grad()
            self.step.backward(inputs, self.weights)
        with self.clock(seconds, "optimiser"):
            torch.nn.utils.clip_grad_norm_(self.trainee.parameters(), self.recipe.clip_gradient)
            self.optimizer.step()
        return seconds

    def vectors(self) -> dict[str, np.ndarray]:
        self.trainee.eval()
        batch = self.batches[0]
        with torch.no_grad():
            found = self.step.embed(self.feeds["bf16"].inputs(batch))
        found |= {letter: bank.vectors(batch) for letter, bank in self.step.banks.items()}
        set_modes(self.encoder.model, freeze_batch_norm=False)
        return {letter: found[letter].float().cpu().numpy() for letter in found.keys() & {"a", "i", "t"}}


def full_size() -> Encoder:
    """Make all three towers of the paper's size, with CLIP's vocabulary and weights of a trained model's size."""
    shape = json.loads((files("biovita.models") / "sizes" / "paper.json").read_text())
    tokenizer = find_tokenizer(Path("none"), n_words=49_408, n_tokens=77)
    ends = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    shape["clip_config"]["text_config"] |= {"vocab_size": len(tokenizer)} | ends
    config = BioVitaConfig(
        audio_config=shape["audio_config"],
        clip_config=shape["clip_config"],
        audio_projection=shape["audio_projection"],
    )
    processor = make_processor(tokenizer, image_size_px=224, audio_padding="pad")
    torch.manual_seed(1)
    return Encoder(model=draw(BioVitaModel(config)), processor=processor, name="full size")


def whole_batches(features: Features, recipe: Recipe) -> list[Batch]:
    """Draw batches whose items all have a sound and a picture."""
    sampler = Sampler(features, recipe, n_prompts=5)
    drawn: list[Batch] = [batch for epoch in range(4) for batch in sampler.epoch(epoch)]
    names = [field.name for field in fields(Batch)]
    columns = {name: np.concatenate([getattr(batch, name) for batch in drawn]) for name in names}
    whole = np.flatnonzero((columns["audio"] >= 0) & (columns["image"] >= 0))
    size = recipe.batch_size
    if len(whole) < size:
        sys.exit(f"benchmarks/train_step.py: {len(whole)} draws with sound and picture; --batch is {size}")
    parts = [whole[n : n + size] for n in range(0, len(whole) - size + 1, size)]
    return [Batch(**{name: columns[name][part] for name in names}) for part in parts[:N_BATCHES]]


def serve(kind: type[Side], setup: Setup, pipe: Connection) -> None:
    """Answer questions, each a method's name and arguments."""
    quiet()
    side = kind(setup)
    pipe.send(None)
    while question := pipe.recv():
        pipe.send(getattr(side, question[0])(*question[1:]))


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if folder := environ.get("OPEN_CLIP"):
        sys.path.append(folder)


@contextmanager
def asked(kind: type[Side], setup: Setup) -> Iterator[Callable[..., Any]]:
    """Start a side; yield how to ask it."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    child = spawn.Process(target=serve, args=(kind, setup, theirs))
    child.start()
    theirs.close()  # so that a child that dies is noticed here
    ours.recv()

    def ask(*question: Any) -> Any:
        began = time.monotonic()
        ours.send(question)
        answer = ours.recv()
        print(f"{kind.__name__} {' '.join(question)}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return answer

    yield ask
    ours.send(None)
    child.join()


def measure(setup: Setup, n_runs: int, modes: list[str]) -> list[str]:
    """Run both sides in turn; return the lines of a page."""
    with asked(Released, setup) as released, asked(Ours, setup) as ours:
        one, other = released("vectors"), ours("vectors")
        apart = {letter: 1 - (one[letter] * other[letter]).sum(1).min() for letter in sorted(one.keys() & other.keys())}
        memory = {"released": released("memory"), "ours": ours("memory")}
        flops = {"released": released("flops"), "ours": ours("flops")}
        fp32, bf16 = ours("peaks")
        sides = {"released": partial(released, "turn", "fp32")} | {mode: partial(ours, "turn", mode) for mode in modes}
        steps: dict[str, list[Seconds]] = {name: [] for name in sides}
        rng = np.random.default_rng(1)
        for _ in range(n_runs):
            for name in rng.permutation(list(sides)):
                time.sleep(REST_S)
                steps[name] += sides[name]()
    goal = GOALS[setup.device]
    parts = {
        name: {part: statistics.median(step[part] for step in found) for part in found[0]}
        for name, found in steps.items()
    }
    whole = {
        name: statistics.median(sum(step.values()) - step["cpu"] for step in found) for name, found in steps.items()
    }
    lines = [
        f"## Stage {setup.stage}, batch {setup.batch}, {setup.device}, {setup.threads} threads",
        "",
        f"| step | ms | samples a second | faster (goal {goal}) | without reading | by processor time | GFLOP | "
        "of the product's peak | waits | peak memory, GB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    theirs = parts["released"]
    for name, seconds in whole.items():
        who = "released" if name == "released" else "ours"
        waits = parts[name].get("wait for data", 0.0)
        cells = [MODES.get(name, name), f"{1e3 * seconds:,.0f}", f"{setup.batch / seconds:.2f}"]
        if who == "ours":
            without = (whole["released"] - theirs["read and decode"]) / (seconds - waits)
            ratios = (whole["released"] / seconds, without, theirs["cpu"] / parts[name]["cpu"])
            cells += [f"{ratio:.2f}" for ratio in ratios]
        else:
            cells += [""] * 3
        share = flops[who] / seconds / (fp32 if name in ("released", "fp32") else bf16)
        cells += [f"{flops[who] / 1e9:,.0f}", f"{share:.0%}", f"{waits / seconds:.1%}" if who == "ours" else ""]
        cells += [f"{memory[who] / 1e9:.1f}" if name in ("released", "bf16") else ""]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Parts of a step, ms:", ""]
    for name, found in parts.items():
        shown = ", ".join(f"{part} {1e3 * seconds:,.0f}" for part, seconds in found.items() if part != "cpu")
        lines.append(f"- {MODES.get(name, name)}: {shown}")
    distances = ", ".join(f"{letter} {distance:.1e}" for letter, distance in apart.items())
    lines += [
        "",
        f"Products of large matrices: fp32 {fp32 / 1e9:,.0f} GFLOP/s, bf16 {bf16 / 1e9:,.0f}. Largest 1 - cosine",
        f"between the vectors of the first batch, ours in bf16 and the released way: {distances}.",
        "",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--device", choices=sorted(GOALS), default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--stages", nargs="+", type=int, choices=sorted(TRAINED), default=[1, 2])
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    args = parser.parse_args()
    for stage in args.stages:
        with tempfile.TemporaryDirectory() as scratch:
            setup = Setup(args.dataset, Path(scratch), stage, args.batch, args.threads, args.device)
            print("\n".join(measure(setup, args.runs, args.modes)), flush=True)


if __name__ == "__main__":
    main()
