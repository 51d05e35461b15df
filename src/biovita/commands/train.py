"""`biovita train`: one stage, from a run file."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from biovita.config import describe_run, plain
from biovita.errors import ConfigError
from biovita.files import read_json, sha256_file, sha256_json, write_bytes, write_json, write_text
from biovita.log import SETTINGS, duration, emit, say, warn
from biovita.train.recipe import Recipe

if TYPE_CHECKING:
    from biovita.models.encoder import Encoder
    from biovita.train.features import Features

LOG, LABELS, RUN = "train_log.jsonl", "labels.csv", "run.json"


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model on a dataset folder."""

    data: Path
    """Dataset folder; its train split is learned, its val split watched."""
    out: Path
    """Model folder to write. One that the same run has finished is left as it is; any other is refused."""
    from_: Annotated[str, tyro.conf.arg(name="from")] = "tiny"
    """Model folder or hub name to start from; or a size (tiny, small, paper) to start from random weights."""
    checkpoint_minutes: float = 10.0
    """Minutes between two checkpoints; a run that was stopped goes on from the last, with the same numbers."""
    skip_damaged: bool = False
    """Go on from the checkpoint before a damaged one."""
    recipe: Recipe = field(default_factory=Recipe)
    """Every number of the stage."""


def run_train(config: Train) -> int:
    """Run one stage and write a model folder."""
    from biovita.data.dataset import Dataset

    dataset = Dataset.open(config.data)
    weights = Path(config.from_) / "model.safetensors"
    start_sha256 = sha256_file(weights) if weights.is_file() else config.from_
    key = sha256_json([plain(config.recipe), start_sha256, dataset.manifest["sha256"]])
    if is_finished(config.out, key):
        say(f"{config.out}: already trained by this very run; nothing to do")
        return 0

    import torch

    from biovita.models import hub
    from biovita.taxonomy.prompts import training_prompts
    from biovita.taxonomy.taxon import Taxon
    from biovita.train.checkpoint import Checkpoints
    from biovita.train.features import prepare
    from biovita.train.loop import train_stage

    torch.manual_seed(config.recipe.seed)
    taxa = {row["species"]: Taxon.from_row(row) for row in dataset.taxa.iter_rows(named=True)}
    seen = sorted(dataset.media.filter(dataset.media["split"] == "train")["species"].unique())
    if config.from_ in ("tiny", "small", "paper"):
        names = [text for species in seen for text in training_prompts(taxa[species])]
        encoder = hub.start(config.from_, names, seed=config.recipe.seed)
    else:
        encoder = hub.load_encoder(config.from_)
    features = prepare(dataset, encoder)
    part = config.out.with_name(f".{config.out.name}.{key[:12]}.part")
    for other in config.out.parent.glob(f".{config.out.name}.*.part"):
        if other != part:
            warn(f"{other}: left by another run to {config.out}; remove it if that is not to go on")
    if not (part / LOG).is_file():
        part.mkdir(parents=True, exist_ok=True)
        earlier = encoder.folder / LOG if encoder.folder else None
        write_bytes(part / LOG, earlier.read_bytes() if earlier and earlier.is_file() else b"")
    with asked_to_stop() as stop:
        facts = train_stage(
            encoder,
            features,
            [training_prompts(taxa[species]) for species in features.species],
            config.recipe,
            log_path=part / LOG,
            checkpoints=Checkpoints(
                part / "checkpoints", key, every_s=60 * config.checkpoint_minutes, skip_damaged=config.skip_damaged
            ),
            validate=lambda model: look(model, features),
            stop=stop,
        )
    hub.save(encoder, part, card=card_of(config, dataset.manifest, facts))
    write_text(part / LABELS, _labels(dataset))
    write_json(
        part / RUN,
        describe_run(config, key=key, start_sha256=start_sha256, dataset=dataset.manifest["sha256"], **facts),
    )
    shutil.rmtree(part / "checkpoints", ignore_errors=True)
    part.rename(config.out)
    if SETTINGS.json:
        emit({"out": str(config.out), "n_steps": facts["n_steps"], "seconds": facts["seconds"], "last": facts["last"]})
    say(f"{config.out}: {facts['n_steps']:,} steps in {duration(facts['seconds'])}")
    return 0


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], int | None]]:
    """Catch the first SIGTERM or SIGINT, and yield a function that tells its number; a second ends the process."""
    caught: list[int] = []

    def note(number: int, _: object) -> None:
        caught.append(number)
        for signal_ in before:
            signal.signal(signal_, signal.SIG_DFL)
        say(f"{signal.Signals(number).name}: finishing the step and saving; once more to end at once")

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
    if (out / RUN).is_file() and read_json(out / RUN).get("key") == key:
        return True
    raise ConfigError(f"{out}: exists and was not made by this run; remove it, or choose another --out")


def look(encoder: "Encoder", features: "Features") -> dict[str, float]:
    """Measure top-1 of the six directions on the validation split, among all its species.

    A taxon scores as its best sample, as in the benchmark; species without the query or target modality sit out.
    """
    import numpy as np
    import torch

    from biovita.models.encoder import in_batches

    val = {letter: features.rows(name, "val") for letter, name in (("a", "audio"), ("i", "image"))}
    labels = {letter: rows["label"].to_numpy() for letter, rows in val.items()}
    labels["t"] = np.unique(np.concatenate(list(labels.values())))
    vectors: dict[str, Any] = {"t": encoder.embed_text([features.species[label] for label in labels["t"]])}
    with torch.inference_mode():
        for letter, tower in (("a", encoder.model.audio_vectors), ("i", encoder.model.image_vectors)):
            parts = []
            for rows in in_batches(val[letter]["row"], 32):
                if letter == "a":
                    batch = torch.from_numpy(np.stack([features.mel(row, 0.0) for row in rows]))
                else:
                    batch = encoder.processor.pixels(torch.from_numpy(features.squares[rows]))
                parts.append(tower(batch.to(encoder.device)).cpu().numpy())
            vectors[letter] = np.concatenate(parts) if parts else np.empty((0, vectors["t"].shape[1]), np.float32)
    top1 = {}
    for query, target in ("at", "ta", "ai", "ia", "it", "ti"):
        asked = np.isin(labels[query], labels[target])
        if asked.any():
            scores = vectors[query][asked] @ vectors[target].T
            top1[f"{query}2{target}"] = float((labels[target][scores.argmax(1)] == labels[query][asked]).mean())
    return top1


def _labels(dataset: Any) -> str:
    from biovita.taxonomy.rank import LEVELS

    return dataset.taxa.select(LEVELS).sort("species").write_csv()


def card_of(config: Train, manifest: dict[str, Any], facts: dict[str, Any]) -> str:
    """Write the model card: what it is, what it learned from, how, and what it must not be used for."""
    made_up = bool(manifest.get("made_up"))
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
