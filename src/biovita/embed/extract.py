"""Files and names to embedding files, with one model, in constant memory.

A run that was killed goes on where it was (`embed.parts`). What cannot be embedded stands in `OUT.quarantine.csv` with
its reason, and never becomes a vector.
"""

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from biovita.embed.parts import Bad, Parts
from biovita.embed.store import Facts, read_embeddings, write_embeddings
from biovita.errors import EmbeddingError, MediaError
from biovita.files import home, sha256_json, write_text
from biovita.log import N_LISTED, Progress, say, warn
from biovita.media.check import check_files
from biovita.models.encoder import (
    BLOCK,
    Embedded,
    Embedder,
    Encoder,
    Item,
    Modality,
    Pool,
    Window,
    in_batches,
)


@dataclass(frozen=True, kw_only=True)
class How:
    """How to embed; the first two decide the vectors, the others only the time.

    Attributes:
        window: which 10 s stand for a recording; it counts for all files that shall join.
        pool: of the windows' vectors; None gives each window a row of its own.
        batch_size: by default what suits the device.
        workers: threads that decode, and processes that look at unknown files; by default one a core.
    """

    window: Window = "onset"
    pool: Pool | None = "mean"
    batch_size: int | None = None
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run's things.

    Attributes:
        n_vectors: rows written.
        bad: what was refused, in the order of the list.
    """

    n_vectors: int = 0
    bad: tuple[Bad, ...] = ()


def facts_of(encoder: Embedder, how: How) -> Facts:
    """Say what makes this encoder's vectors."""
    pool = "" if how.pool == "mean" or how.window != "windows" else f"-{how.pool or 'each'}"
    return Facts(
        model=encoder.name,
        weights_sha256=encoder.weights_sha256,
        preprocess=encoder.fingerprint(how.window) + pool,
    )


def embed_media(
    encoder: Embedder,
    out: Path,
    *,
    ids: Sequence[str],
    paths: Sequence[Path],
    modality: Modality | None = None,
    is_checked: bool = True,
    how: How | None = None,
) -> Outcome:
    """Embed recordings and pictures into one file, in order.

    Args:
        encoder: the model.
        out: the Parquet file.
        ids: one a file, all different.
        paths: the files.
        modality: of all of them; None for unknown files.
        is_checked: files of a known modality have passed the check; if not, and where the modality is not known, they
            are checked one by one, and a file of another modality is refused.
        how: windows, pooling, speed.

    Raises:
        EmbeddingError: the parts of another run are in the way, or not one of the files can be used.
    """
    how = how or How()
    if modality and not paths:
        vectors = encoder.embed_audio([]) if modality == "audio" else encoder.embed_image([])
        write_embeddings(out, ids=[], modality=modality, embedding=vectors, **facts_of(encoder, how))
        return Outcome()
    items = (
        partial(_known, modality) if modality and is_checked else partial(checked, wanted=modality, workers=how.workers)
    )
    return _embed(encoder, out, ids=ids, things=paths, items=items, how=how)


def embed_names(encoder: Embedder, out: Path, *, names: Sequence[str], how: How | None = None) -> Outcome:
    """Embed different names into one file, in order; the id of each is itself, its level is `name`."""
    return _embed(encoder, out, ids=names, things=names, items=partial(_known, "text"), how=how or How(), level="name")


def embed_labels(
    encoder: Embedder,
    out: Path,
    *,
    ids: Sequence[str],
    texts: Sequence[str],
    levels: Sequence[str],
    how: How | None = None,
) -> Outcome:
    """Embed the texts that stand for taxa into one file; equal texts are embedded once, and kept for the next time."""
    vectors = text_vectors(encoder, texts)
    facts = facts_of(encoder, how or How())
    write_embeddings(out, ids=ids, modality="text", embedding=vectors, text=texts, level=levels, **facts)
    return Outcome(n_vectors=len(ids))


def text_vectors(encoder: Embedder, texts: Sequence[str]) -> np.ndarray:
    """Embed texts, or find them under $BIOVITA_HOME/text, where a list is kept by model and content.

    Returns:
        float32, shape (n, width), unit rows, in the order of `texts`.
    """
    unique = sorted(set(texts), key=lambda text: (len(text), text))
    row = {text: n for n, text in enumerate(unique)}
    facts = facts_of(encoder, How())
    key = sha256_json([facts["weights_sha256"], facts["preprocess"], unique])
    path = home() / "text" / f"{key}.parquet"
    vectors = _kept(path, unique) if unique and encoder.weights_sha256 else None
    if vectors is None:
        parts = [encoder.embed_text([])]
        with Progress("embed names", len(unique), "names") as bar:
            for block in in_batches(unique, BLOCK):
                parts.append(encoder.embed_text(block))
                bar.advance(len(block))
        vectors = np.concatenate(parts)
        if unique and encoder.weights_sha256:
            write_embeddings(path, ids=unique, modality="text", embedding=vectors, text=unique, **facts)
    return vectors[[row[text] for text in texts]]


def _kept(path: Path, texts: list[str]) -> np.ndarray | None:
    """Read a kept list; one that is damaged is made again."""
    if not path.is_file():
        return None
    try:
        table = read_embeddings(path)
    except EmbeddingError as error:
        warn(f"{error}; embedding its names again")
        return None
    return table.embedding if table.ids == texts else None


def _known(modality: Modality, things: Sequence[Any]) -> Iterator[Item]:
    return ((modality, thing) for thing in things)


def checked(paths: Sequence[Path], *, wanted: Modality | None = None, workers: int | None = None) -> Iterator[Item]:
    """Look at strangers' files in a limited child before anything here opens them; refuse other kinds than wanted."""
    for path, verdict in zip(paths, check_files(paths, workers=workers or os.cpu_count() or 1), strict=True):
        if verdict.ok and wanted and verdict.modality != wanted:
            yield MediaError("wrong_modality", f"{path}: is listed as {wanted} and holds {verdict.modality}")
        elif verdict.ok and verdict.modality in ("audio", "image"):
            yield verdict.modality, path
        else:
            yield MediaError(verdict.reason or "not_media", verdict.detail)


def stream(encoder: Embedder, items: Iterable[Item], how: How) -> Iterator[list[Embedded | MediaError]]:
    """Embed any number of things, as `Encoder.stream` does; a peer without one works through its three methods.

    A thing that the model has no tower for is refused like a bad one.
    """
    items = (_within(encoder, item) for item in items)
    if isinstance(encoder, Encoder):
        speed = {"batch_size": how.batch_size, "workers": how.workers}
        yield from encoder.stream(items, window=how.window, pool=how.pool, **speed)
        return
    if how.pool is None:
        raise EmbeddingError(f"{encoder.name}: gives one vector a recording; pool them by mean or max")
    embed: dict[Modality, Callable[[list[Any]], np.ndarray]] = {
        "audio": partial(encoder.embed_audio, window=how.window, pool=how.pool, batch_size=how.batch_size),
        "image": partial(encoder.embed_image, batch_size=how.batch_size),
        "text": partial(encoder.embed_text, batch_size=how.batch_size),
    }
    for block in in_batches(items, BLOCK):
        found: dict[int, Embedded | MediaError] = {}
        for modality, method in embed.items():
            there = [(n, item[1]) for n, item in enumerate(block) if isinstance(item, tuple) and item[0] == modality]
            results = _each(method, modality, [thing for _, thing in there])
            found.update({n: result for (n, _), result in zip(there, results, strict=True)})
        yield [item if isinstance(item, MediaError) else found[n] for n, item in enumerate(block)]


def _within(encoder: Embedder, item: Item) -> Item:
    if isinstance(item, MediaError) or item[0] in encoder.modalities:
        return item
    return MediaError("wrong_modality", f"{item[0]}, but {encoder.name} embeds {' and '.join(encoder.modalities)}")


def _each(
    embed: Callable[[list[Any]], np.ndarray], modality: Modality, things: list[Any]
) -> list[Embedded | MediaError]:
    """Embed things together or, where one of them is bad, each by itself."""
    try:
        return [Embedded(modality, vector[None]) for vector in embed(things)] if things else []
    except MediaError as error:
        if len(things) == 1:
            return [error]
    return [found for thing in things for found in _each(embed, modality, [thing])]


def _embed(
    encoder: Embedder,
    out: Path,
    *,
    ids: Sequence[str],
    things: Sequence[Any],
    items: Callable[[Sequence[Any]], Iterator[Item]],
    how: How,
    level: str | None = None,
) -> Outcome:
    """Embed things block by block into parts, join them, and list what was refused."""
    parts = Parts(out, facts_of(encoder, how), ids=ids, things=things)
    if parts.n_done:
        say(f"{parts.folder}: {parts.n_done:,} of {len(ids):,} are there from an earlier run; going on behind them")
    with Progress(f"embed {out.name}", len(ids) - parts.n_done) as bar:

        def counted() -> Iterator[Item]:
            for item in items(things[parts.n_done :]):
                yield item
                bar.advance()

        for block in stream(encoder, counted(), how):
            bar.advance(0, bad=parts.write(block, level=level))
    quarantine = out.with_suffix(".quarantine.csv")
    quarantine.unlink(missing_ok=True)
    if parts.bad:
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([Bad._fields, *parts.bad])
        write_text(quarantine, lines.getvalue())
    for bad in parts.bad[:N_LISTED]:
        warn(f"{bad.id}: not embedded: {bad.reason} ({bad.detail})")
    if len(parts.bad) > N_LISTED:
        warn(f"{len(parts.bad) - N_LISTED:,} more were not embedded; all stand in {quarantine}")
    n_vectors = parts.join()
    if not n_vectors:
        raise EmbeddingError(f"{out}: not written, none of the {len(ids)} files can be used; see {quarantine}")
    return Outcome(n_vectors=n_vectors, bad=tuple(parts.bad))
