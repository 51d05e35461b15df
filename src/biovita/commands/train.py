"""`biovita train`: one stage, from a run file."""

import dataclasses
import fcntl
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from biovita.config import describe_run, plain
from biovita.errors import ConfigError
from biovita.files import read_json, sha256_file, sha256_json, write_bytes, write_json, write_text
from biovita.log import SETTINGS, duration, emit, say, warn
from biovita.train.recipe import Recipe

LOG, LABELS, RUN, LOCK = "train_log.jsonl", "labels.csv", "run.json", ".lock"
SIZES = ("tiny", "small", "paper")
TWICE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model on a dataset folder; on several processes under torchrun or accelerate launch."""

    data: Path
    """Dataset folder, or a folder of its shards; its train split is learned, its val split watched."""
    out: Path
    """Model folder to write. One that the same run has finished is left as it is; any other is refused."""
    from_: Annotated[str, tyro.conf.arg(name="from")] = "tiny"
    """Model folder or hub name to start from; or a size (tiny, small, paper) to start from random weights."""
    media: Literal["kept", "fresh"] = "kept"
    """Decode all media once and keep them beside the dataset; or decode at every draw, which takes no space."""
    workers: int | None = None
    """Processes that read ahead, for each training process; by default none for kept media, else one a core."""
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Also write the curves for these."""
    smoke: bool = False
    """Run the same stage on a few files, in seconds."""
    checkpoint_minutes: float = 10.0
    """Minutes between two checkpoints; a run that was stopped goes on from the last, with the same numbers."""
    keep_checkpoints: int = 2
    """So many of the newest checkpoints stay while the run goes on."""
    skip_damaged: bool = False
    """Go on from the checkpoint before a damaged one."""
    cpu: bool = False
    """Do not use a GPU that is there."""
    compile: bool = False
    """Compile the towers, which takes minutes at the first step."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    sharded: bool = False
    """Spread weights and moments over the processes (FSDP) instead of keeping them all in each."""
    recipe: Recipe = field(default_factory=Recipe)
    """Every number of the stage."""


def run_train(config: Train) -> int:
    """Run one stage and write a model folder."""
    check(config)
    from biovita.train.source import open_data
    from biovita.train.track import check_installed

    check_installed(config.track)
    first = os.environ.get("RANK", "0") == "0"
    SETTINGS.quiet |= not first
    if config.smoke:
        from biovita.train.smoke import smoke

        config = dataclasses.replace(config, recipe=smoke(config.recipe))
    data = open_data(config.data)
    weights = Path(config.from_) / "model.safetensors"
    if config.from_ in SIZES and weights.is_file() and first:
        warn(f"--from {config.from_}: random weights of this size; for the folder of this name write ./{config.from_}")
    start_sha256 = sha256_file(weights) if weights.is_file() and config.from_ not in SIZES else config.from_
    extra = ["smoke"] if config.smoke else ["fresh"] if config.media == "fresh" else []  # they change the last digits
    key = sha256_json([plain(config.recipe), start_sha256, data.sha256, *extra])
    if is_finished(config.out, key):
        say(f"{config.out}: already trained by this very run; nothing to do")
        if SETTINGS.json and first:
            done = read_json(config.out / RUN)
            emit({"out": str(config.out), **{name: done[name] for name in ("n_steps", "seconds", "last")}})
        return 0

    import torch

    from biovita.models import hub
    from biovita.report.training import write_training_report
    from biovita.taxonomy.prompts import training_prompts
    from biovita.taxonomy.taxon import Taxon
    from biovita.train import ranks
    from biovita.train.checkpoint import Checkpoints
    from biovita.train.engine import Engine
    from biovita.train.loop import BEST, check_patterns, train_stage
    from biovita.train.source import open_source
    from biovita.train.track import Trackers
    from biovita.train.validate import look, odds

    kept = config.media == "kept" and not config.smoke
    n_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    workers = (0 if kept else max(1, (os.cpu_count() or 1) // n_local)) if config.workers is None else config.workers
    engine = Engine(
        workers=workers,
        cpu=config.cpu,
        compiled=config.compile,
        checkpoint_activations=config.checkpoint_activations,
        sharded=config.sharded,
    )
    engine.start()
    engine.check(config.recipe)
    torch.manual_seed(config.recipe.seed)
    taxa = {row["species"]: Taxon.from_row(row) for row in data.taxa.iter_rows(named=True)}
    seen = sorted(data.media.filter(data.media["split"] == "train")["species"].unique())
    if config.from_ in SIZES:
        names = [text for species in seen for text in training_prompts(taxa[species])]
        encoder = hub.start(config.from_, names, seed=config.recipe.seed)
    else:
        encoder = hub.load_encoder(config.from_)
    earlier = encoder.folder / LOG if encoder.folder else None
    config = dataclasses.replace(config, recipe=own_stage(config.recipe, earlier))
    check_patterns(encoder.model, config.recipe)
    source = open_source(data, encoder, kept=kept, few=config.smoke)
    part = config.out.with_name(f".{config.out.name}.{key[:12]}.part")
    with alone(part) if first else nullcontext():
        if first:
            if config.out.exists():
                raise ConfigError(f"{config.out}: another process has made it meanwhile; nothing is left to do")
            for other in config.out.parent.glob(f".{config.out.name}.*.part"):
                if other != part:
                    warn(f"{other}: left by another run to {config.out}; remove it if that is not to go on")
            if not (part / LOG).is_file():
                write_bytes(part / LOG, earlier.read_bytes() if earlier and earlier.is_file() else b"")
        ranks.barrier()
        torch.manual_seed(config.recipe.seed + ranks.rank())  # for dropout

        def open_track(done: int) -> Callable[[dict[str, float], int], None]:
            if not (first and config.track):
                return lambda numbers, step: None
            trackers = Trackers(config.track, part, config.out.name, plain(config), done=done)
            closing.callback(trackers.close)
            return trackers.log

        with asked_to_stop() as stop, ExitStack() as closing:
            facts = train_stage(
                encoder,
                source,
                [training_prompts(taxa[species]) for species in source.species],
                config.recipe,
                log_path=part / LOG,
                checkpoints=Checkpoints(
                    part / "checkpoints",
                    key,
                    every_s=60 * config.checkpoint_minutes,
                    skip_damaged=config.skip_damaged,
                    keep=config.keep_checkpoints,
                ),
                validate=lambda model: look(model, source),
                odds=odds(source),
                stop=stop,
                engine=engine,
                banks=data.folder / ".features" / "banks" if kept else None,
                open_track=open_track,
            )
        if not first:
            ranks.barrier()
            return 0
        hub.save(encoder, part, card=card_of(config, data.made_up, facts))
        write_text(part / LABELS, _labels(data.taxa))
        write_json(
            part / RUN,
            describe_run(
                config, key=key, start_sha256=start_sha256, dataset=data.sha256, made_up=data.made_up, **facts
            ),
        )
        write_training_report(part)
        for name in ("checkpoints", "banks"):
            shutil.rmtree(part / name, ignore_errors=True)
        for name in (BEST, LOCK):
            (part / name).unlink(missing_ok=True)
        part.rename(config.out)
        ranks.barrier()
        if SETTINGS.json:
            emit({"out": str(config.out), **{name: facts[name] for name in ("n_steps", "seconds", "last")}})
        say(f"{config.out}: {facts['n_steps']:,} steps in {duration(facts['seconds'])}; {config.out / 'training.html'}")
        return 0


def check(config: Train) -> None:
    """Refuse numbers that mean nothing, before anything is read."""
    if not 0 <= config.checkpoint_minutes < math.inf:
        raise ConfigError(f"--checkpoint-minutes {config.checkpoint_minutes:g}: give minutes, 0 or more")
    if config.keep_checkpoints < 1:
        raise ConfigError(f"--keep-checkpoints {config.keep_checkpoints}: keep at least 1, to go on from")
    if config.workers is not None and config.workers < 0:
        raise ConfigError(f"--workers {config.workers}: give 0 or more, or leave it out")


def own_stage(recipe: Recipe, log: Path | None) -> Recipe:
    """Give the stage a name that no stage before it has: all go on in one log, where the same steps would be one."""
    from biovita.report.inputs import read_log

    taken = {row.get("stage") for row in read_log(log)} if log and log.is_file() else set()
    names = (f"{recipe.stage} {n}" if n > 1 else recipe.stage for n in count(1))
    return dataclasses.replace(recipe, stage=next(name for name in names if name not in taken))


@contextmanager
def alone(part: Path) -> Iterator[None]:
    """Hold the folder of a run that goes on, against a second process with the same command.

    Raises:
        ConfigError: another process holds it.
    """
    part.mkdir(parents=True, exist_ok=True)
    with (part / LOCK).open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, no child that outlives us holds it
        except OSError:
            raise ConfigError(f"{part}: another process trains this very run; let it end, or stop it") from None
        yield


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], int | None]]:
    """Catch the first SIGTERM or SIGINT, and yield a function that tells its number; a later one ends the process.

    Another within a second is the same: Ctrl-C under torchrun and `timeout` signal a process twice.
    """
    caught: list[int] = []

    def note(number: int, _: object) -> None:
        caught.append(number)
        say(f"{signal.Signals(number).name}: finishing the step and saving; once more to end at once")
        for signal_ in before:
            signal.signal(signal_, signal.SIG_IGN)
        time.sleep(TWICE_S)
        for signal_ in before:
            signal.signal(signal_, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_finished(out: Path, key: str) -> bool:
    """Tell whether a folder holds what this run would write.

    Raises:
        ConfigError: it holds something else.
    """
    if not out.exists():
        return False
    run = read_json(out / RUN) if (out / RUN).is_file() else {}
    if run.get("key") == key:
        return True
    what = "holds a smoke run" if run.get("config", {}).get("smoke") else "exists and was not made by this run"
    raise ConfigError(f"{out}: {what}; remove it, or choose another --out")


def _labels(taxa: Any) -> str:
    from biovita.taxonomy.rank import LEVELS

    return taxa.select(LEVELS).sort("species").write_csv()


def card_of(config: Train, made_up: bool, facts: dict[str, Any]) -> str:
    """Write the model card: what it is, what it learned from, how, and what it must not be used for."""
    recipe = "\n".join(f"| {name} | {value} |" for name, value in plain(config.recipe).items())
    warning = "\n**Trained on a made-up biosphere: it knows nothing about real animals.**\n" if made_up else ""
    return f"""---
library_name: biovita
tags: [bioacoustics, biodiversity, zero-shot, audio, image, text{", made-up" if made_up else ""}]
---
# {config.out.name}
{warning}
A BioVITA model: sounds (HTS-AT), pictures and names (CLIP) in one space of 768 dimensions.

    import biovita
    model = biovita.load("{config.out.name}")
    model.embed_audio(["call.mp3"]) @ model.embed_text(["Turdus merula"]).T

Last stage: `{config.recipe.stage}`, {facts["n_steps"]:,} steps, starting from `{config.from_}`. Its numbers:

| name | value |
|---|---|
{recipe}

`run.json` says what ran, and on which data; `train_log.jsonl` holds every step; `labels.csv` the species.
"""
