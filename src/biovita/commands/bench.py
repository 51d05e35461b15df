"""`biovita bench`: make a benchmark from a dataset, and score anyone's vectors on it."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from biovita import config as runs
from biovita.commands.embed import Using, finish, how_of, load_model, media_of
from biovita.log import SETTINGS, emit, say

if TYPE_CHECKING:
    from biovita.bench.official import Bench
    from biovita.embed.extract import How, Outcome
    from biovita.models.encoder import Embedder
    from biovita.models.pieces import Modality


@dataclass(frozen=True, kw_only=True)
class Make:
    """Build all 36 scenarios from a dataset folder."""

    dataset: Positional[Path]
    """The dataset folder."""
    out: Path
    """The new benchmark folder."""
    seed: int = 1
    """Of the candidate pools; the same seed and dataset give the same bytes."""
    candidates: int = 100
    """Taxa in a pool, where the dataset has as many."""
    protocol: Literal["any", "other-species"] = "any"
    """At genus and family level: any species of the taxon is a match, as released, or only others than the query's, as
    the paper says."""
    distractors: Literal["uniform", "hard"] = "uniform"
    """The other taxa of a pool: drawn evenly, or those of the same family first, then of the same order."""
    balance: Literal["none", "class"] = "none"
    """`class` asks as often of every class as the rarest allows."""


@dataclass(frozen=True, kw_only=True)
class Embed(Using):
    """Embed every item of a benchmark folder with a model."""

    bench: Positional[Path]
    """The benchmark folder, ours or in the official layout."""
    out: Path
    """Folder for audio.parquet, image.parquet and text.parquet."""
    names: tuple[str, ...] = ()
    """What stands for a species: species (scientific name), common_name, taxonomy, scientific_and_common,
    taxonomy_and_common, common_name_de, ...; default: the first two."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Score stored vectors on a benchmark folder."""

    bench: Positional[Path]
    """The benchmark folder, ours or in the official layout."""
    embeddings: Path
    """Folder with audio.parquet, image.parquet and text.parquet."""
    out: Path
    """The results file (JSON); every prediction goes to NAME.predictions.parquet beside it."""
    split: str | None = None
    """Score only this split; for a folder in the official layout, the name of its split."""
    k: tuple[int, ...] = (1, 5, 10)
    """A hit means that the correct taxon is among the first k."""
    ties: Literal["against", "order"] = "against"
    """`against` counts a tie against the model; `order` keeps the order of the candidates, as MTEB does."""
    missing: Literal["error", "skip", "zero"] = "error"
    """An id without a vector is an error, a query left out and counted, or zeros as in the reference script."""
    names: str = "species"
    """The name form that stands for a species, a `level` of text.parquet: species (scientific), common_name, ..."""


def run_make(config: Make) -> None:
    """Run `biovita bench make`."""
    from biovita.bench.build import make_bench
    from biovita.bench.tasks import Rules

    rules = Rules(protocol=config.protocol, distractors=config.distractors, balance=config.balance)
    manifest = make_bench(config.dataset, config.out, seed=config.seed, n_candidates=config.candidates, rules=rules)
    runs.write_run(config.out, config, dataset_sha256=manifest["dataset_sha256"])
    counts = manifest["scenarios"]
    if SETTINGS.json:
        emit({"out": str(config.out), "splits": manifest["splits"], "scenarios": counts})
        return
    width = max(map(len, counts))
    sys.stdout.writelines(
        f"{name:<{width}}  {row['n_queries']:>8,} queries  {row['n_candidates']:>4} candidates\n"
        for name, row in counts.items()
    )
    say(f"{config.out}: {len(counts)} scenarios")


def run_embed(config: Embed) -> int:
    """Run `biovita bench embed`: bad files are listed, and the exit code is 3."""
    from biovita.bench.official import open_bench

    bench = open_bench(config.bench)
    encoder = load_model(config)
    done = [embed() for embed in embed_bench(encoder, bench, config.out, how_of(config), config.names).values()]
    refused = dict(sorted(Counter(bad.reason for one in done for bad in one.bad).items()))
    facts = {"bench_sha256": bench.sha256, "weights_sha256": encoder.weights_sha256, **bench.facts}
    return finish(config, config.out / "run.json", done, **facts, refused=refused)


def embed_bench(
    encoder: "Embedder", bench: "Bench", out: Path, how: "How", names: Sequence[str] = ()
) -> "dict[Modality, Callable[[], Outcome]]":
    """Say how sounds, pictures and names of a benchmark are embedded, each by a call of its own.

    Media of ours have passed the check; those of an official folder are strangers' and are checked one by one.

    Args:
        encoder: the model.
        bench: what is embedded.
        out: folder for audio.parquet, image.parquet and text.parquet.
        how: windows, pooling, speed.
        names: see `bench.names.forms_of`.
    """
    from biovita.bench.names import forms_of, texts_of
    from biovita.embed.extract import embed_labels, embed_media

    index = bench.text_index()
    forms = forms_of(index, names)

    def embed_files(modality: "Modality") -> "Outcome":
        files = bench.files(modality)
        ids = sorted(files)
        paths = [files[item].resolve() if bench.media else files[item] for item in ids]  # the hub's cache holds links
        file = out / f"{modality}.parquet"
        return embed_media(encoder, file, ids=ids, paths=paths, modality=modality, is_checked=not bench.media, how=how)

    def embed_texts() -> "Outcome":
        texts = texts_of(index, forms)
        ids, levels, given = (texts[column].to_list() for column in ("id", "level", "text"))
        return embed_labels(encoder, out / "text.parquet", ids=ids, texts=given, levels=levels, how=how)

    media: Sequence[Modality] = media_of(encoder)
    return {**{modality: partial(embed_files, modality) for modality in media}, "text": embed_texts}


def run_score(config: Score) -> None:
    """Run `biovita bench score`."""
    from biovita.bench.run import score_bench, text_table

    results = score_bench(
        config.bench,
        config.embeddings,
        out=config.out,
        split=config.split,
        k=config.k,
        ties=config.ties,
        missing=config.missing,
        names=config.names,
    )
    if SETTINGS.json:
        emit(results)
    else:
        sys.stdout.write(text_table(results) + "\n")
    say(f"{config.out}: {len(results['scenarios'])} scenarios")
