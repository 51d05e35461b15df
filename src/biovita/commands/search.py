"""`biovita search`: find in an archive what is like words, a sound, a picture, or any mix of them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from biovita.errors import EXIT_BAD_ITEMS, ArchiveError, ConfigError, MediaError
from biovita.log import SETTINGS, emit, say, warn

if TYPE_CHECKING:
    from biovita.models.encoder import Embedder
    from biovita.search.archive import Archive, Hit
    from biovita.search.query import Example

SECTION = re.compile(r"(.+)@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")


@dataclass(frozen=True, kw_only=True)
class Search:
    """Find recordings and pictures in an archive by words, a sound, a picture, or any mix of them."""

    archive: tyro.conf.Positional[str]
    """The archive's folder or address."""
    text: tuple[str, ...] = ()
    """Words: 'frog call in rain', or a name."""
    audio: tuple[str, ...] = ()
    """Recordings, or seconds of one: call.wav@12.5-18."""
    image: tuple[Path, ...] = ()
    """Pictures."""
    like: tuple[str, ...] = ()
    """More like these hits, by id."""
    unlike: tuple[str, ...] = ()
    """Less like these hits, by id."""
    text_weight: float = 1.0
    """How much the words count beside the rest."""
    audio_weight: float = 1.0
    """How much the sounds count."""
    image_weight: float = 1.0
    """How much the pictures count."""
    to: Literal["any", "audio", "image"] = "any"
    """What to find."""
    where: str = ""
    """A filter: "lat > 50 and month = 5 and licence like 'CC%'" (docs/archive.md)."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 20
    """Hits, 1 to 100."""
    every_window: bool = False
    """Also show near-duplicates and further windows of a recording."""
    exact: bool = False
    """Compare with every row, also where there is an index."""
    model: str = ""
    """Model folder or hub name; by default the one that the archive remembers."""
    copy: Path | None = None
    """A new folder for the hits: clips cut out of recordings, pictures, hits.csv and CREDITS.csv."""


def run_search(config: Search) -> int:
    """Print the hits, best first; with --copy, export them."""
    from biovita.search.archive import Archive, check_k
    from biovita.search.query import UNLIKE, examples_like, search
    from biovita.search.where import read_filter

    check_k(config.k)
    if config.where:
        read_filter(config.where)
    if not (config.text or config.audio or config.image or config.like):
        raise ConfigError("nothing to search for; give --text WORDS, --audio FILE, --image FILE or --like ID")
    if not all(text.strip() for text in config.text):
        raise ConfigError("--text: one of the texts is empty; give words, or a name")
    for flag in ("text_weight", "audio_weight", "image_weight"):
        if not 0 < getattr(config, flag) < float("inf"):
            raise ConfigError(f"--{flag.replace('_', '-')} {getattr(config, flag)}: give a number above 0")
    if config.copy and config.copy.exists() and not (config.copy.is_dir() and not any(config.copy.iterdir())):
        raise ConfigError(f"--copy {config.copy}: is not empty; name a new folder")
    archive = Archive.open(config.archive)
    examples = examples_of(config, archive)
    for ids, weight in ((config.like, 1.0), (config.unlike, UNLIKE)):
        if ids:
            examples += examples_like(archive, ids, weight=weight)
    how: dict[str, Any] = {"to": config.to, "k": config.k, "where": config.where or None, "exact": config.exact}
    hits = search(archive, examples, collapse=not config.every_window, **how)
    show(hits, nothing=f"{config.archive}: nothing found" + (f" where {config.where}" if config.where else ""))
    return export(hits, config.copy) if config.copy else 0


def show(hits: "list[Hit]", *, nothing: str) -> None:
    """Print hits, best first; say `nothing` where there are none."""
    for rank, hit in enumerate(hits, 1):
        if SETTINGS.json:
            emit({"rank": rank, **row_of(hit)})
        else:
            print(line_of(rank, hit))
    if not hits:
        say(nothing)


def examples_of(config: Search, archive: "Archive") -> "list[Example]":
    """Embed the words, sounds and pictures of a query with the archive's model.

    Raises:
        ArchiveError: the model is not there, is another one, or a file cannot be used.
    """
    from biovita.embed.rules import rule_of
    from biovita.media.check import check_files
    from biovita.models.hub import load
    from biovita.search.query import Example

    if not (config.text or config.audio or config.image):
        return []
    encoder = load(config.model or archive.model)
    rule_of(encoder, archive.facts)
    sounds = [section_of(text) for text in config.audio]
    paths = [path for path, _ in sounds] + list(config.image)
    kinds = ["audio"] * len(sounds) + ["image"] * len(config.image)
    for path, kind, verdict in zip(paths, kinds, check_files(paths), strict=True):
        verdict = verdict.expecting(kind)
        if not verdict.ok:
            raise ArchiveError(f"{path}: cannot be searched for: {verdict.reason} ({verdict.detail})")
    groups = (
        ("text", config.text_weight, encoder.embed_text(config.text) if config.text else ()),
        ("audio", config.audio_weight, [sound_vector(encoder, *sound) for sound in sounds]),
        ("image", config.image_weight, encoder.embed_image(config.image) if config.image else ()),
    )
    return [
        Example(modality=kind, vector=vector, weight=weight / len(vectors))
        for kind, weight, vectors in groups
        for vector in vectors
    ]


def section_of(text: str) -> tuple[Path, tuple[float, float] | None]:
    """Read `call.wav@12.5-18` as a file and seconds of it.

    Raises:
        ConfigError: the end is not behind the start.
    """
    found = SECTION.fullmatch(text)
    if found is None or Path(text).exists():
        return Path(text), None
    start, end = float(found[2]), float(found[3])
    if end <= start:
        raise ConfigError(f"--audio {text}: the end must lie behind the start")
    return Path(found[1]), (start, end)


def sound_vector(encoder: "Embedder", path: Path, section: tuple[float, float] | None) -> Any:
    """Embed all windows of a recording, or of some seconds of it, as one vector."""
    from biovita.media.audio import SAMPLE_RATE_HZ, read_audio

    if section is None:
        return encoder.embed_audio([path], window="windows")[0]
    start, end = section
    wave = read_audio(path, start_s=start, duration_s=end - start)
    if not len(wave):
        raise ArchiveError(f"{path}@{start:g}-{end:g}: the recording ends before")
    return encoder.embed_audio([(wave, SAMPLE_RATE_HZ)], window="windows")[0]


def row_of(hit: "Hit") -> dict[str, Any]:
    """Turn a hit into plain values; the columns of hits.csv."""
    from dataclasses import asdict

    row = asdict(hit)
    row["recorded_at"] = f"{hit.recorded_at:%Y-%m-%dT%H:%M:%SZ}" if hit.recorded_at else None
    row["score"] = round(hit.score, 6)
    row["standing"] = round(hit.standing, 3) if hit.standing is not None else None
    return row


def line_of(rank: int, hit: "Hit") -> str:
    """Write a hit for people."""
    place = hit.path if hit.start_s is None or hit.end_s is None else f"{hit.path}@{hit.start_s:g}-{hit.end_s:g}"
    facts = [
        hit.species or "",
        f"{hit.recorded_at:%Y-%m-%d %H:%M} UTC" if hit.recorded_at else "",
        f"{hit.latitude_deg:.3f}, {hit.longitude_deg:.3f}" if hit.latitude_deg is not None else "",
        hit.licence or "",
        f"and {hit.n_alike} alike" if hit.n_alike else "",
    ]
    standing = f"{hit.standing:+5.1f} sd" if hit.standing is not None else ""
    said = f"{rank:>3}. {standing}  score {hit.score:+.3f}  {hit.modality}  {hit.id:<28} {place}"
    return "  ".join([said, *(fact for fact in facts if fact)])


def export(hits: "list[Hit]", folder: Path) -> int:
    """Write clips, pictures, hits.csv and CREDITS.csv; a file that is gone or was changed is listed, and exit is 3."""
    import csv
    import io

    from biovita.files import write_text

    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    n_bad = 0
    for rank, hit in enumerate(hits, 1):
        row = {"rank": rank, "file": "", "problem": "", **row_of(hit)}
        try:
            row["file"] = copied(hit, folder, rank)
        except (MediaError, OSError) as error:
            n_bad += 1
            row["problem"] = str(error)
            warn(f"{hit.path}: not copied: {error}")
        rows.append(row)
    credit = ("file", "licence", "rights_holder", "species", "path", "sha256")
    for name, columns in (("hits.csv", list(rows[0]) if rows else ["rank", "file"]), ("CREDITS.csv", credit)):
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows if name == "hits.csv" or row["file"])
        write_text(folder / name, text.getvalue())
    say(f"{folder}: {len(rows) - n_bad} of {len(rows)} hits copied")
    return EXIT_BAD_ITEMS if n_bad else 0


def copied(hit: "Hit", folder: Path, rank: int) -> str:
    """Copy a picture or a whole recording as it is; cut a window out as FLAC, mono, 48 kHz, as the model heard it.

    Raises:
        MediaError: the file is not the one that was indexed.
        OSError: it cannot be read.
    """
    import shutil

    from biovita.files import sha256_file
    from biovita.media.audio import SAMPLE_RATE_HZ, read_audio, write_audio

    path = Path(hit.path)
    if sha256_file(path) != hit.sha256:
        raise MediaError("corrupt", f"{path}: changed since it was indexed; run `biovita index add` again")
    name = re.sub(r"[^\w.-]+", "_", f"{rank:03}_{hit.species or hit.modality}_{hit.id}")[:200]
    if hit.start_s is None or hit.end_s is None:
        name += path.suffix.lower()
        shutil.copyfile(path, folder / name)
    else:
        name += ".flac"
        wave = read_audio(path, start_s=hit.start_s, duration_s=hit.end_s - hit.start_s)
        write_audio(folder / name, wave, SAMPLE_RATE_HZ)
    return name
