"""The made-up world as the outside would give it: media files, a table of records, a table of taxa, damaged copies.

Every number is drawn from (seed, purpose, species, item), so a world does not depend on how many processes made it.
The whole table of records is drawn first, with numpy; only then are the files rendered, each by itself.
"""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from PIL import Image

from biovita import files, log
from biovita.errors import WorldError
from biovita.media.audio import write_audio
from biovita.media.image import write_image
from biovita.taxonomy.rank import RANKS
from biovita.world.ecology import make_traits
from biovita.world.look import draw
from biovita.world.names import make_names, n_homonyms
from biovita.world.tree import HABITATS, INDIVIDUAL, LOOK, RECORDS, VOICE, Tree, make_tree
from biovita.world.voice import GEAR, Place, render

VERSION: Final = 1  # of the generator: a folder made by another one is not continued
REQUEST: Final = "request.json"
TABLES: Final = ["records.parquet", "taxa.parquet"]
AUDIO_SUFFIXES: Final = {".flac": 0.54, ".wav": 0.26, ".mp3": 0.14, ".m4a": 0.06}  # MP3 and AAC are slow to encode
IMAGE_SUFFIXES: Final = {".jpg": 0.92, ".png": 0.08}
LICENCES: Final = {"CC0-1.0": 0.25, "CC-BY-4.0": 0.45, "CC-BY-NC-4.0": 0.30}
RECORD_COLUMNS: Final = [
    *("path", "media_id", "modality", "source", "scientific_name", "common_name", "licence", "rights_holder"),
    *("individual", "recorded_at", "latitude_deg", "longitude_deg", "quality", "remarks"),
]
BATCH: Final = 24  # files a process renders at a time
FIRST_DAY: Final = datetime(2012, 1, 1, tzinfo=UTC)
N_DAYS: Final = 13 * 365
FIRST_NAMES: Final = [
    "Ada",
    "Bo",
    "Cleo",
    "Dag",
    "Edda",
    "Finn",
    "Gro",
    "Hal",
    "Ines",
    "Jo",
    "Kaia",
    "Lev",
    "Mio",
    "Nia",
]
LAST_NAMES: Final = [
    "Alder",
    "Brook",
    "Crane",
    "Dell",
    "Elm",
    "Fenn",
    "Gale",
    "Heath",
    "Isle",
    "Juniper",
    "Knoll",
    "Lake",
]


class Item(NamedTuple):
    """One file to render."""

    path: str
    species: int
    number: int
    habitat: int
    is_night: bool
    vigour: float
    distance: float
    gear: int


def make_world(
    out: Path, *, n_species: int, n_recordings: int, n_images: int, seed: int, workers: int = 1, media: bool = True
) -> dict[str, Any]:
    """Make a world in a folder and return its manifest; a finished one is left alone, an unfinished one continued.

    Files that exist are kept when a world is continued. They are renamed in but not synced one by one: a world can
    always be made again.

    Args:
        out: the folder; it may hold only what the same arguments left there.
        n_species: at least 5.
        n_recordings: the mean number per species is half less (species vary by -2 to +1, but have at least one).
        n_images: likewise.
        seed: the same seed gives the same bytes.
        workers: processes.
        media: False leaves out the files, and the column `path` is null.

    Raises:
        WorldError: the numbers make no world, or the folder holds something else.
    """
    if min(n_recordings, n_images) < 0 or n_recordings + n_images == 0:
        raise WorldError(f"--recordings {n_recordings} --images {n_images}: give at least one of a positive number")
    request = {
        "version": VERSION,
        "n_species": n_species,
        "n_recordings": n_recordings,
        "n_images": n_images,
        "seed": seed,
        "media": media,
    }
    if manifest := _claim(out, request):
        return manifest
    tree = make_tree(n_species, seed)
    names = make_names(tree)
    taxa = _taxa(tree, names)
    records = _records(tree, names, n_recordings, n_images)
    files.write_json(out / REQUEST, request)
    if media:
        _render_all(out, tree, [Item(*row) for row in records.select(Item._fields).rows()], workers)
    else:
        records = records.with_columns(path=pl.lit(None, pl.String))
    for name, table in zip(TABLES, (records.select(RECORD_COLUMNS), taxa), strict=True):
        with files.atomic_path(out / name) as part:
            table.write_parquet(part)
    counts = {"species": n_species, **{f"{m}_files": n for m, n in records.group_by("modality").len().rows()}}
    return files.write_manifest(
        out,
        TABLES,
        made_up=True,
        request=request,
        counts=counts,
        homonyms={name: n_homonyms(names[name]) for name in ("species", "common_name")},
    )


def _claim(out: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of a finished world; make sure that an unfinished one was begun by the same request."""
    if (out / files.MANIFEST).is_file():
        manifest = files.read_manifest(out)
        if manifest.get("request") == request:
            log.say(f"{out}: this world is there already")
            return manifest
        raise WorldError(f"{out}: holds something made otherwise; remove it or choose another --out")
    if (out / REQUEST).is_file():
        if files.read_json(out / REQUEST) != request:
            raise WorldError(f"{out}: holds an unfinished world of other numbers; remove it or choose another --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WorldError(f"{out}: is not empty and not a world; choose another --out")
    return None


def _taxa(tree: Tree, names: dict[str, list[str]]) -> pl.DataFrame:
    """One row a species: seven ranks, common name, 34 traits."""
    columns: dict[str, Any] = {rank: names[rank] for rank in (*RANKS, "common_name")}
    for label, value in make_traits(tree).items():
        columns[label] = pl.Series(value.data).set(pl.Series(np.ma.getmaskarray(value)), None)
    return pl.DataFrame(columns)


def _records(tree: Tree, names: dict[str, list[str]], n_recordings: int, n_images: int) -> pl.DataFrame:
    """Draw all records at once: the columns of `RECORD_COLUMNS` and the fields of `Item`.

    About half of the individuals have a photo and a recording, the others have one of the two. Both media of an
    individual share its place, hour and vigour.
    """
    rng = np.random.default_rng([tree.seed, RECORDS])
    n_of = {"audio": _vary(n_recordings, tree.n_species, rng), "image": _vary(n_images, tree.n_species, rng)}
    n_both = np.minimum(np.minimum(*n_of.values()), np.round(sum(n_of.values()) / 3).astype(int))
    n_individuals = sum(n_of.values()) - n_both
    first = np.cumsum(n_individuals) - n_individuals
    who = _individuals(tree, np.repeat(np.arange(tree.n_species), n_individuals))

    kinds = []
    for modality, n in n_of.items():
        species = np.repeat(np.arange(tree.n_species), n)
        number = np.arange(len(species)) - np.repeat(np.cumsum(n) - n, n)
        # Individuals of a species: first those with both media, then those only heard, then those only seen.
        unpaired = (
            0 if modality == "audio" else np.where(number < n_both[species], 0, (n_of["audio"] - n_both)[species])
        )
        suffixes, letter = (AUDIO_SUFFIXES, "a") if modality == "audio" else (IMAGE_SUFFIXES, "i")
        kinds.append(
            pl.DataFrame(
                {
                    "species": species,
                    "number": number,
                    "who": first[species] + number + unpaired,
                    "suffix": _choose(suffixes, len(species), rng),
                }
            ).with_columns(modality=pl.lit(modality), letter=pl.lit(letter))
        )
    table = pl.concat(kinds).sort("species", "modality", "number").with_row_index("serial")
    distance = rng.beta(1.6, 2.4, len(table))
    grade = np.clip(4.2 * distance + rng.normal(0, 0.5, len(table)), 0, 4.99).astype(int)
    table = table.with_columns(
        pl.Series("distance", distance),
        pl.Series("gear", rng.choice(len(GEAR), len(table), p=[gear.share for gear in GEAR])),
        pl.Series("quality", np.array(list("ABCDE"))[grade]),
        pl.Series("licence", _choose(LICENCES, len(table), rng)),
        pl.Series("scientific_name", names["species"])[table["species"]],
        pl.Series("common_name", names["common_name"])[table["species"]],
        *(column[table["who"]] for column in who),
    )
    slug = pl.col("scientific_name").str.to_lowercase().str.replace(" ", "_", literal=True)
    file = pl.concat_str(slug, pl.lit("_"), "letter", pl.col("number").cast(pl.String).str.zfill(3), "suffix")
    place = pl.col("habitat").replace_strict(dict(enumerate(HABITATS)), return_dtype=pl.String)
    gear = pl.col("gear").replace_strict({i: gear.name for i, gear in enumerate(GEAR)}, return_dtype=pl.String)
    return table.with_columns(
        path=pl.concat_str(pl.lit("media/"), slug, pl.lit("/"), file),
        media_id=pl.concat_str(pl.lit("world:"), pl.col("serial").cast(pl.String).str.zfill(7)),
        source=pl.lit("world"),
        individual=pl.concat_str(pl.lit("world:"), pl.col("who").cast(pl.String).str.zfill(7)),
        remarks=pl.when(modality="audio")
        .then(pl.concat_str(pl.lit("made up; "), place, pl.lit("; "), gear))
        .otherwise(pl.concat_str(pl.lit("made up; "), place)),
    )


def _vary(n: int, n_species: int, rng: np.random.Generator) -> np.ndarray:
    """Draw how many media each species has: n - 2 to n + 1, at least one; none if n is 0."""
    return rng.integers(max(1, n - 2), n + 2, n_species) if n else np.zeros(n_species, int)


def _choose(shares: dict[str, float], n: int, rng: np.random.Generator) -> np.ndarray:
    return np.array(list(shares))[rng.choice(len(shares), n, p=list(shares.values()))]


def _individuals(tree: Tree, own: np.ndarray) -> list[pl.Series]:
    """Draw where, when and by whom each individual was met; `own` is the species of each."""
    rng = np.random.default_rng([tree.seed, INDIVIDUAL])
    n = len(own)
    taste = np.argsort(-tree.taste, axis=1)
    habitat = taste[own, (rng.random(n) > 0.8).astype(int)]
    is_night = rng.random(n) < np.clip(1.7 * (tree.character("night")[own] - 0.42), 0.02, 0.95)
    hour = np.where(is_night, rng.uniform(20, 29, n) % 24, rng.uniform(5, 19, n))
    seconds = (rng.integers(0, N_DAYS, n) * 86400 + hour * 3600).astype(np.int64) + int(FIRST_DAY.timestamp())
    genus = tree.ancestors("genus")
    hemisphere = rng.choice([-1.0, 1.0], tree.n_nodes("genus"))[genus]
    meridian = rng.uniform(-180, 180, tree.n_nodes("genus"))[genus]
    latitude = np.clip((hemisphere * 72 * tree.character("climate"))[own] + rng.normal(0, 3, n), -85, 85)
    people = pl.Series("rights_holder", [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES])
    return [
        pl.Series("habitat", habitat),
        pl.Series("is_night", is_night),
        pl.Series("vigour", rng.standard_normal(n)),
        pl.Series("recorded_at", seconds * 1_000_000).cast(pl.Datetime("us", "UTC")),
        pl.Series("latitude_deg", latitude.round(4)),
        pl.Series("longitude_deg", ((meridian[own] + rng.normal(0, 6, n) + 180) % 360 - 180).round(4)),
        people[rng.integers(0, len(people), n)],
    ]


def _render_all(out: Path, tree: Tree, items: list[Item], workers: int) -> None:
    """Render all files, a batch of neighbours at a time; what a killed run left half-written goes first."""
    for stale in (out / "media").glob("*/.*"):
        stale.unlink()
    batches = [items[i : i + BATCH] for i in range(0, len(items), BATCH)]
    render_batch = partial(_render_batch, out, tree.n_species, tree.seed)
    with log.Progress("making the world", len(items), "files") as bar:
        if workers <= 1:
            for n_done in map(render_batch, batches):
                bar.advance(n_done)
            return
        # Spawned, not forked: polars has threads.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, initializer=_end_with_parent) as pool:
            try:
                for n_done in pool.map(render_batch, batches):
                    bar.advance(n_done)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _end_with_parent() -> None:
    """Let a worker go when its parent is killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@lru_cache(maxsize=1)
def _tree(n_species: int, seed: int) -> Tree:
    return make_tree(n_species, seed)  # once a process


def _render_batch(out: Path, n_species: int, seed: int, items: list[Item]) -> int:
    tree = _tree(n_species, seed)
    for item in items:
        path = out / item.path
        if path.is_file():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{os.getpid()}{path.suffix}")
        render_item(part, tree, item)
        part.replace(path)
    return len(items)


def render_item(path: Path, tree: Tree, item: Item) -> None:
    """Render one file: what it holds depends only on the seed of the tree and the item."""
    species = tree.species(item.species)
    place = Place(habitat=HABITATS[item.habitat], is_night=item.is_night, vigour=item.vigour)
    if path.suffix in AUDIO_SUFFIXES:
        gear = GEAR[item.gear]
        rng = np.random.default_rng([tree.seed, VOICE, item.species, item.number])
        write_audio(path, render(species, place, gear, item.distance, rng), gear.sample_rate_hz)
    else:
        rng = np.random.default_rng([tree.seed, LOOK, item.species, item.number])
        write_image(path, draw(species, place, rng))


def damaged_files(folder: Path) -> dict[str, Path]:
    """Write the damaged copies that a download really meets, and return them by a word for what is wrong.

    Names end as the medium they claim to be. Nothing here is dangerous; hostile files are the business of their tests.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tree = make_tree(5, 0)
    photo, call = folder / "whole.jpg", folder / "whole.flac"
    for path in (photo, call):
        render_item(path, tree, Item(path.name, 0, 0, 0, False, 0.0, 0.2, 0))
    jpeg, flac = photo.read_bytes(), call.read_bytes()
    page = b"<!DOCTYPE html>\n<html><head><title>429 Too Many Requests</title></head><body>Slow down.</body></html>\n"
    content = {
        "empty_file": ("empty.jpg", b""),
        "html_document": ("page.mp3", page),
        "json_document": ("answer.jpg", b'{"error": "not found"}\n'),
        "text_document": ("note.wav", b"The recording was moved.\n"),
        "not_media": ("noise.mp3", np.random.default_rng(0).bytes(4096)),
        "truncated_image": ("cut.jpg", jpeg[: len(jpeg) // 2]),
        "truncated_audio": ("cut.flac", flac[: len(flac) // 2]),
        "wrong_modality": ("photo.mp3", jpeg),
    }
    paths = {what: folder / name for what, (name, _) in content.items()}
    for what, (_, data) in content.items():
        paths[what].write_bytes(data)
    paths |= {what: folder / f"{what}.wav" for what in ("no_samples", "silent", "too_short")}
    for what, n_samples in (("no_samples", 0), ("silent", 48_000), ("too_short", 480)):
        write_audio(paths[what], np.sin(np.arange(n_samples)) * (what != "silent"), 48_000)
    for what, size in (("blank", (64, 64)), ("too_small", (8, 8))):
        paths[what] = folder / f"{what}.png"
        write_image(paths[what], Image.new("RGB", size, (90, 90, 90)))
    return paths
