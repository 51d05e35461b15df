"""`biovita embed`: files, folders or names to one embedding file; a dataset or a benchmark to a folder of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from biovita.config import describe_run
from biovita.errors import EXIT_BAD_ITEMS, ConfigError
from biovita.files import write_json
from biovita.log import SETTINGS, emit, say, warn

if TYPE_CHECKING:
    from biovita.embed.extract import How, Outcome
    from biovita.models.encoder import Embedder


@dataclass(frozen=True, kw_only=True)
class Using:
    """A model and how it is run; shared by the commands that embed many things."""

    model: str
    """Model folder or hub name."""
    out: Path
    """Where the vectors go."""
    window: Literal["onset", "centre", "windows"] = "onset"
    """Which 10 s stand for a recording: from its onset (the reference rule), its middle, or all, back to back."""
    pool: Literal["mean", "max", "none"] = "mean"
    """With --window windows: the mean or the maximum of the windows' vectors, or a row for each window."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the arithmetic; vectors of two precisions do not join."""
    near_pictures: bool = False
    """Read JPEGs about twice as fast, 0.3 % of their values 1/255 off; such vectors join with no others."""
    compile: bool = False
    """Compile the towers first: a minute that pays on long runs."""
    device: str = ""
    """cpu, cuda, cuda:1, …; by default a GPU where there is one."""
    batch_size: int = 0
    """Items a forward pass; by default what suits the device, and less where its memory runs out."""
    workers: int = 0
    """Threads that decode, and processes that check unknown files; by default one a core."""


@dataclass(frozen=True, kw_only=True)
class Embed(Using):
    """Turn recordings and photos, or the names in a text file, into vectors."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Recordings and photos, mixed as you like, and folders of them: every file is checked first, and a bad one never
    becomes a vector. Or one dataset folder, or one benchmark folder."""
    out: Path
    """Parquet file to write (docs/data.md describes the columns); for a dataset or a benchmark a folder of
    one file for each modality. The same command goes on where a killed one was."""
    text: Path | None = None
    """A text file with one name a line, instead of media files."""


def run_embed(config: Embed) -> int:
    """Write one row an item; bad files are listed, and the exit code is 3."""
    if bool(config.paths) == bool(config.text):
        raise ConfigError("give either media files or --text FILE")
    if config.text and not config.text.is_file():
        raise ConfigError(f"{config.text}: no such file; --text wants one name a line")
    if config.text and config.text.suffix.lower() in (".csv", ".tsv", ".parquet"):
        raise ConfigError(f"{config.text}: is a table; write the column with the names to a .txt file, one a line")
    how = how_of(config)
    paths: list[Path] = [*config.paths]
    whole = [path for path in paths if is_dataset(path) or is_bench(path)]
    check_out(config.out, is_folder=bool(whole))
    if whole and len(paths) > 1:
        raise ConfigError(f"{whole[0]}: a dataset or a benchmark is embedded alone; give it a run of its own")
    if whole and is_bench(whole[0]):
        from biovita.bench.official import open_bench
        from biovita.commands.bench import embed_bench

        bench = open_bench(whole[0])
        done = [embed() for embed in embed_bench(load_model(config), bench, config.out, how).values()]
    elif whole:
        done = embed_dataset(load_model(config), whole[0], config.out, how)
    elif config.text:
        from biovita.embed.extract import embed_names

        names = read_names(config.text)
        if not names:
            raise ConfigError(f"{config.text}: holds no names; --text wants one name a line")
        done = [embed_names(load_model(config), config.out, names=names, how=how)]
    else:
        from biovita.commands.dataset import walk
        from biovita.embed.extract import embed_media
        from biovita.embed.parts import readable

        files = list(dict.fromkeys(file for path in paths for file in walk(path)))
        if not files:
            raise ConfigError(f"{paths[0]}: holds no files; name recordings, photos or folders of them")
        ids = [readable(str(file)) for file in files]
        done = [embed_media(load_model(config), config.out, ids=ids, paths=files, how=how)]
    return finish(config, config.out / "run.json" if whole else config.out.with_suffix(".run.json"), done)


def check_out(out: Path, *, is_folder: bool) -> None:
    """Refuse a name that says file where a folder is written, or the other way round, before anything is embedded.

    Raises:
        ConfigError: it does.
    """
    if is_folder and (out.suffix == ".parquet" or out.is_file()):
        raise ConfigError(f"--out {out}: name a folder; a dataset or a benchmark becomes a file for each modality")
    if not is_folder and (out.suffix != ".parquet" or out.is_dir()):
        raise ConfigError(f"--out {out}: name a file that ends in .parquet")


def read_names(path: Path) -> list[str]:
    """Read one name a line, each once.

    Raises:
        ConfigError: the file is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start:,}); save it as UTF-8") from None
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def load_model(config: Using) -> "Embedder":
    """Load the model that a command names, on its device and in its precision."""
    from biovita.models.hub import load

    return load(
        config.model,
        device=config.device or None,
        precision=config.precision,
        compiled=config.compile,
        near_pictures=config.near_pictures,
    )


def how_of(config: Using) -> "How":
    """Say how a command embeds."""
    from biovita.embed.extract import How

    for flag, value in (("--batch-size", config.batch_size), ("--workers", config.workers)):
        if value < 0:
            raise ConfigError(f"{flag} {value}: give at least 1, or leave it out")
    if config.pool != "mean" and config.window != "windows":
        raise ConfigError(
            f"--pool {config.pool} with --window {config.window}: only --window windows has several vectors"
        )
    pool = None if config.pool == "none" else config.pool
    return How(window=config.window, pool=pool, batch_size=config.batch_size or None, workers=config.workers or None)


def is_dataset(folder: Path) -> bool:
    """Tell a dataset folder from a folder of files."""
    return (folder / "media.parquet").is_file()


def is_bench(folder: Path) -> bool:
    """Tell a benchmark folder, ours or in the official layout, from a folder of files."""
    homes = ("", "*/", "*/benchmark/")
    return any(any(folder.glob(f"{home}{ids}*_index.csv")) for home in homes for ids in ("", "ids/"))


def embed_dataset(encoder: "Embedder", folder: Path, out: Path, how: "How") -> list["Outcome"]:
    """Embed the media of a dataset, which have passed the check, into a file for each modality."""
    from biovita.data.dataset import Dataset
    from biovita.embed.extract import embed_media

    dataset = Dataset.open(folder)
    done = []
    for modality in media_of(encoder):
        rows = dataset.media.filter(dataset.media["modality"] == modality).sort("media_id")
        paths, ids = [dataset.path(path) for path in rows["path"]], rows["media_id"].to_list()
        done.append(embed_media(encoder, out / f"{modality}.parquet", ids=ids, paths=paths, modality=modality, how=how))
    return done


def media_of(encoder: "Embedder") -> list[Literal["audio", "image"]]:
    """List the kinds of media that a model embeds, and say what it leaves out."""
    kinds: tuple[Literal["audio", "image"], ...] = ("audio", "image")
    for kind in kinds:
        if kind not in encoder.modalities:
            warn(f"{encoder.name} has no {kind} tower: no {kind}.parquet")
    return [kind for kind in kinds if kind in encoder.modalities]


def finish(config: Using, run: Path, done: list["Outcome"], **facts: object) -> int:
    """Write the run beside its output, say what came of it, and return the exit code."""
    n_vectors, n_bad = sum(one.n_vectors for one in done), sum(len(one.bad) for one in done)
    write_json(run, describe_run(config, n_vectors=n_vectors, n_refused=n_bad, **facts))
    if SETTINGS.json:
        emit({"out": str(config.out), "n_vectors": n_vectors, "n_refused": n_bad, **facts})
    say(f"{config.out}: {n_vectors:,} vectors" + (f", {n_bad:,} files refused" if n_bad else ""))
    return EXIT_BAD_ITEMS if n_bad else 0
