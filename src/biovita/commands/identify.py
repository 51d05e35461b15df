"""`biovita identify`: name the animals in photos and recordings, and write tables that other programs open."""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from biovita.config import describe_run
from biovita.errors import EXIT_BAD_ITEMS, ConfigError
from biovita.files import sha256_json, write_json
from biovita.log import SETTINGS, Progress, emit, say, warn
from biovita.taxonomy.rank import RANKS, Rank

if TYPE_CHECKING:
    from biovita.identify.answer import Answer, Identifier, Named
    from biovita.identify.blocks import Result
    from biovita.identify.files import How, Seen
    from biovita.identify.write import Counts, Out
    from biovita.media.check import Verdict

STDIN = Path("-")
ON_STDOUT = ("table", "csv", "jsonl")
OF_SOUND = ("raven", "audacity", "birdnet")
NO_TABLES = ("tsv", "txt", "json", "xls", "xlsx")  # what people name tables that we do not write, not folders


@dataclass(frozen=True, kw_only=True)
class Identify:
    """Rank taxa for each file: photo or recording, told apart by content. Long recordings are looked at in windows."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Photos and recordings, mixed as you like; folders of them; patterns such as 'site*/*.wav'; or - for a list on
    standard input, one name a line or ended by NUL."""
    model: str
    """Model folder or hub name."""
    out: Path | None = None
    """Folder for the tables; or one table: birds.csv, birds.jsonl, birds.parquet. The same command goes on where a
    killed one was. By default answers go to standard output."""
    format: tuple[Literal["table", "csv", "jsonl", "parquet", "raven", "audacity", "birdnet", "camtrap-dp"], ...] = ()
    """One or more; by default a table for people on standard output, csv in a folder. What --out holds already can be
    written in other formats without looking at the files again."""
    combined: bool = False
    """raven, audacity, birdnet: one table for all recordings, not one each."""
    k: Annotated[int, tyro.conf.arg(aliases=("-k",))] = 5
    """Taxa to rank a file."""
    rank: Rank = "species"
    """Of these taxa."""
    min_score: float | None = None
    """Leave out taxa below it. Tables then name all that reach it, at most k a window or photo; without it, the one
    that is sure enough or, with a model that is not calibrated, the first."""
    confidence: float = 0.8
    """Calibrated models: the deepest rank that is as probable as this is the answer, else it is unknown."""
    hop: float = 10.0
    """Seconds from one 10 s window of a recording to the next; 5 looks at every moment twice."""
    together: bool = False
    """The files named here show one animal, and so do the files in each folder: one answer from all of them."""
    labels: Path | None = None
    """CSV, TSV or Parquet of species to choose from (columns kingdom to species, common_name), or a name list such as
    eBird's; default: the model's own labels.csv."""
    taxa: str = ""
    """Choose among the species of these taxa only: Aves, or several by comma, of any rank."""
    examples: Path | None = None
    """Folder or table of labelled files of yours that add species, or sharpen known ones, without training."""
    species_list: Path | None = None
    """What lives there: scientific names, one a line, or a table of sightings; answers say what is expected."""
    names: tuple[Path, ...] = ()
    """Name lists that know the synonyms of --species-list and --examples, as for `data build`."""
    place: tuple[float, float] | None = None
    """Latitude and longitude in degrees: of --species-list, what was seen near counts; camtrap-dp: of files that tell
    no place."""
    week: str = ""
    """1 to 48, four a month, or a date: of --species-list, what was seen about then counts."""
    only_expected: bool = False
    """Leave out what is not expected, instead of marking what is."""


def run_identify(config: Identify) -> int:
    """Name every file; those that cannot be used are listed with the reason, and the exit code is 3."""
    check(config)
    from biovita.identify.blocks import results
    from biovita.identify.files import How, identify_files
    from biovita.identify.write import Counts, Out, table_to

    out = Out(config.out) if config.out else None
    listed = listed_files(config.files, out)
    files, groups = [file for file, _ in listed], [group for _, group in listed] if config.together else None
    identifier = load_identifier(config)
    how = How(hop_s=config.hop, k=config.k, rank=config.rank, confidence=config.confidence, min_score=config.min_score)
    if out:
        return write_tables(config, out, identifier, files, groups, how)
    counts = Counts()
    format_ = config.format[0] if config.format else "table"
    with progress_of(files, is_shown=not sys.stdout.isatty()) as seen:
        found = results(identify_files(identifier, files, how, groups=groups, seen=seen))
        with table_to(sys.stdout, format_, config.min_score) as add:
            for result in found:
                counts.add(result, config.min_score)
                for verdict in result.refused:
                    refuse(verdict)
                if SETTINGS.json:
                    for row in objects_of(result):
                        emit(row)
                elif format_ == "table":
                    show(result, config.min_score)
                else:
                    add(result)
                sys.stdout.flush()
    if counts.n_files and not counts.n_named and format_ != "table":
        say(f"nothing was named in {counts.n_files:,} files; {how_to_name_more(config)}")
    return EXIT_BAD_ITEMS if counts.n_refused else 0


def check(config: Identify) -> None:
    """Refuse flags that cannot be used, before anything heavy is loaded."""
    if not config.files:
        raise ConfigError("no files given; name photos or recordings: biovita identify FILE… --model MODEL")
    if config.k < 1:
        raise ConfigError(f"--k {config.k}: give at least 1")
    if not 0 < config.hop < math.inf:
        raise ConfigError(f"--hop {config.hop}: give seconds, more than 0")
    if config.min_score is not None and not math.isfinite(config.min_score):
        raise ConfigError(f"--min-score {config.min_score}: give a cosine, -1 to 1")
    if not 0 < config.confidence <= 1:
        raise ConfigError(f"--confidence {config.confidence}: give more than 0 and at most 1")
    if config.names and not (config.species_list or config.examples):
        raise ConfigError("--names: knows synonyms of a list; name the list with --species-list or --examples")
    if lost := next((path for path in config.names if not path.exists()), None):
        raise ConfigError(f"--names {lost}: no such name list")
    wanted, suffix = config.format, config.out.suffix.lower().lstrip(".") if config.out else ""
    if config.together and (bad := next((one for one in wanted if one in OF_SOUND), None)):
        raise ConfigError(f"--format {bad} with --together: it has times, one answer for several files has none")
    if not config.out and (bad := next((one for one in wanted if one not in ON_STDOUT), None)):
        raise ConfigError(f"--format {bad}: is written to files; give --out FOLDER")
    if not config.out and wanted and SETTINGS.json:
        raise ConfigError(f"--format {wanted[0]} with --json: both are for standard output; choose one")
    if not config.out and len(wanted) > 1:
        raise ConfigError(f"--format {' '.join(wanted)}: several need --out FOLDER")
    if config.out and "table" in wanted:
        raise ConfigError("--format table: is for standard output; leave --out away, or take csv")
    if suffix in NO_TABLES:
        raise ConfigError(f"--out {config.out}: a table ends in .csv, .jsonl or .parquet; or name a folder")
    if suffix in ("csv", "jsonl", "parquet") and any(one != suffix for one in wanted):
        raise ConfigError(f"--out {config.out} with --format {' '.join(wanted)}: give --out FOLDER for these")
    if config.combined and not any(one in OF_SOUND for one in wanted):
        raise ConfigError(f"--combined: is about --format {', '.join(OF_SOUND)}; csv is one table for all files anyway")


def listed_files(given: Sequence[Path], out: "Out | None") -> list[tuple[Path, str]]:
    """List the files to look at, each with its animal in case of --together, whose files stand side by side.

    Raises:
        ConfigError: a pattern, a folder or the list names no file.
    """
    import glob

    from biovita.commands.dataset import walk

    found: dict[Path, str] = {}
    for path in given:
        if path == STDIN:
            named = list_on_stdin()
        elif glob.has_magic(str(path)) and not os.path.lexists(path):
            named = [Path(one) for one in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - absolute too
            if not named:
                raise ConfigError(f"{path}: no file is called so")
        else:
            named = [path]
        for one in named:
            is_folder = one.is_dir() and not one.is_symlink()
            inside = [file for file in walk(one) if not (out and out.owns(file))] if is_folder else [one]
            if is_folder and not inside:
                raise ConfigError(f"{one}: holds no files; name recordings, photos or folders of them")
            for file in inside:
                found.setdefault(file, str(file.parent) if is_folder else "")
    order = {group: n for n, group in enumerate(dict.fromkeys(found.values()))}
    return sorted(found.items(), key=lambda item: order[item[1]])


def list_on_stdin() -> list[Path]:
    """Read names of files: ended by NUL where there is one, else one a line."""
    content = sys.stdin.buffer.read()
    names = content.split(b"\0") if b"\0" in content else content.replace(b"\r\n", b"\n").split(b"\n")
    found = [Path(os.fsdecode(name)) for name in names if name]
    if not found:
        raise ConfigError("-: standard input names no files; give one a line, or end each with NUL")
    return found


def load_identifier(config: Identify) -> "Identifier":
    """Load the model, its calibration, and the species to choose from."""
    from biovita.identify.answer import Identifier
    from biovita.identify.calibrate import read_calibration
    from biovita.identify.labels import read_labels
    from biovita.models.hub import load

    encoder = load(config.model)
    calibration = read_calibration(encoder.folder)
    is_for_list = config.species_list is not None or "camtrap-dp" not in config.format
    labels = read_labels(
        encoder,
        table=config.labels,
        taxa=config.taxa,
        examples=config.examples,
        calibration=calibration,
        species_list=config.species_list,
        names=config.names,
        place=config.place if is_for_list else None,
        week=config.week,
        only_expected=config.only_expected,
    )
    return Identifier(encoder, labels, calibration=calibration)


@contextmanager
def progress_of(files: Sequence[Path], *, done: int = 0, is_shown: bool = True) -> Iterator["Seen"]:
    """Show how much of the files has been read, in kB: rate, time left and bad files are true for long ones as well."""
    sizes = [_kilobytes(file) for file in files]
    before = [0]
    for size in sizes:
        before.append(before[-1] + size)
    if not is_shown:
        yield lambda file, share, *, is_bad=False: None
        return
    with Progress("identify", before[-1] - before[done], "kB") as bar:

        def seen(file: int, share: float, *, is_bad: bool = False) -> None:
            at = before[file] + int(share * sizes[file]) - before[done]
            note = f"{file + (share == 1):,} of {len(files):,} files"
            bar.advance(max(0, at - bar.done), bad=is_bad, note=note)

        yield seen


def _kilobytes(path: Path) -> int:
    try:
        return -(-path.stat().st_size // 1000)
    except OSError:
        return 0


def write_tables(
    config: Identify,
    out: "Out",
    identifier: "Identifier",
    files: Sequence[Path],
    groups: Sequence[str] | None,
    how: "How",
) -> int:
    """Answer what is not in the journal yet, and write all tables from it."""
    from biovita.identify.blocks import results
    from biovita.identify.files import identify_files
    from biovita.identify.journal import Journal
    from biovita.identify.table import SCHEMA
    from biovita.identify.write import JOURNAL, RUN, Source, top_of, write_outputs

    out.claim()
    asked = {"hop": how.hop_s, **how.asked(), "together": config.together}
    listed = sha256_json([[ascii(file) for file in files], groups])
    request = {"schema": SCHEMA, **identifier.facts, **asked, "files": f"{len(files):,}, list {listed[:16]}"}
    began = datetime.now(UTC).replace(microsecond=0)
    with Journal.open(out.beside(JOURNAL), request, began=began.isoformat()) as journal:
        state = journal.state
        if state.n_files or state.opened:
            say(f"{journal.path}: {state.n_files:,} of {len(files):,} files are done; going on behind them")
        with progress_of(files, done=state.n_files) as seen:
            for block in identify_files(identifier, files, how, groups=groups, state=state, seen=seen):
                journal.write(block)
        source = Source(
            top=top_of(files),
            place=config.place,
            created=datetime.fromisoformat(journal.request["began"]),
            facts=identifier.facts,
        )
        formats = config.format or ((out.path.suffix.lower().lstrip("."),) if out.is_table else ("csv",))
        counts = write_outputs(
            lambda: results(journal.blocks()),
            out,
            formats,  # pyright: ignore[reportArgumentType]
            source,
            min_score=config.min_score,
            combined=config.combined,
        )
    numbers = {"n_files": counts.n_files, "n_refused": counts.n_refused, "n_named": counts.n_named}
    write_json(out.beside(RUN), describe_run(config, schema=SCHEMA, **identifier.facts, **numbers))
    return finish(config, out, counts, numbers)


def finish(config: Identify, out: "Out", counts: "Counts", numbers: dict[str, int]) -> int:
    """Say what came of a run, and return the exit code."""
    from biovita.identify.write import REFUSED

    for path, reason, detail in counts.refused:
        warn(f"{line_of(path)}: not identified: {reason} ({line_of(detail)})")
    if counts.n_refused > len(counts.refused):
        warn(f"{counts.n_refused - len(counts.refused):,} more were not identified; {out.beside(REFUSED)} has all")
    if SETTINGS.json:
        emit({"out": str(out.path), **numbers})
    if counts.n_files and not counts.n_named:
        say(f"{out.path}: nothing was named in {counts.n_files:,} files; {how_to_name_more(config)}")
    say(f"{out.path}: {counts.n_files:,} files, {counts.n_named:,} rows, {counts.n_refused:,} refused")
    return EXIT_BAD_ITEMS if counts.n_refused else 0


def how_to_name_more(config: Identify) -> str:
    """Say why a run named nothing, and what gives names."""
    if config.min_score is not None:
        return f"no taxon reaches --min-score {config.min_score:g}; try a lower one"
    best = f"--min-score -1 for the best {config.k} of each"
    return f"no answer is as sure as --confidence {config.confidence:g}; try a lower one, or {best}"


def refuse(verdict: "Verdict") -> None:
    """Say that a file was not identified, and why."""
    if SETTINGS.json:
        emit({"path": verdict.path, "verdict": "reject", "reason": verdict.reason, "detail": verdict.detail})
    warn(f"{line_of(verdict.path)}: not identified: {verdict.reason} ({line_of(verdict.detail)})")


def objects_of(result: "Result") -> list[dict[str, Any]]:
    """Make the objects of --json: one a file, or one for the files of one animal."""
    if result.together:
        modality = "+".join(sorted({file.modality for file in result.files}))
        paths = [file.path for file in result.files]
        return [{"paths": paths, "verdict": "ok", "modality": modality, **_answer(result.together)}]
    return [
        {
            "path": file.path,
            "verdict": "ok",
            "modality": file.modality,
            "duration_s": file.duration_s,
            **_answer(file.whole),
            "detections": [
                {"start_s": one.start_s, "end_s": one.end_s, **_named(one.named)} for one in file.detections
            ],
        }
        for file in result.files
    ]


def _answer(answer: "Answer") -> dict[str, Any]:
    return {"taxa": [_named(one) for one in answer.taxa], "sure": answer.sure and _named(answer.sure)}


def _named(one: "Named") -> dict[str, Any]:
    ranks = {rank: one.lineage.get(rank, "") for rank in RANKS}
    prob = None if one.prob is None else round(one.prob, 4)
    facts = {"common_name": one.common_name, "score": round(one.score, 4), "prob": prob, "expected": one.expected}
    return {**ranks, "rank": one.rank, "name": one.name, **facts}


def show(result: "Result", min_score: float | None) -> None:
    """Print a file, or the files of one animal, for people: its taxa, and who is heard when."""
    if result.together:
        for file in result.files:
            print(f"{line_of(file.path)}  ({file.modality})")
        print("  together:")
        _show_answer(result.together)
        return
    for file in result.files:
        print(f"{line_of(file.path)}  ({file.modality})")
        _show_answer(file.whole)
        if len(file.detections) > 1 or min_score is not None:
            for one in file.detections:
                print(f"  {_clock(one.start_s)} - {_clock(one.end_s)}  {_line(one.named)}")


def _show_answer(answer: "Answer") -> None:
    if answer.sure:
        print(f"  = {answer.sure.rank} {answer.sure.name}, prob {answer.sure.prob:.2f}")
    elif any(one.prob is not None for one in answer.taxa):
        print("  = unknown")
    if not answer.taxa:
        print("  no taxon reaches --min-score")
    for n, one in enumerate(answer.taxa, 1):
        print(f"  {n}. {_line(one)}")


def _line(one: "Named") -> str:
    name = f"{one.name} ({one.common_name})" if one.common_name else one.name
    above = "" if one.rank == "family" else one.lineage.get("family", "")
    prob = "" if one.prob is None else f"  prob {one.prob:.2f}"
    expected = {None: "", True: "  expected", False: "  not expected"}[one.expected]
    return f"{line_of(name):<60} {above:<20} score {one.score:+.3f}{prob}{expected}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes) // 60}:{int(minutes) % 60:02d}:{rest:04.1f}"


def line_of(text: str) -> str:
    """Write a text on one line that any terminal can take."""
    from biovita.identify.table import shown

    return shown(text)
