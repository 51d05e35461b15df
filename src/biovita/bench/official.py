"""The official benchmark layout, read strictly and written.

    audio_index.csv  image_index.csv  text_index.csv        (or all three in ids/)
    {species,genus,family}/test_{audio,image,text}_to_{audio,image,text}.csv

Such a folder is one split. A folder of ours holds two of them, `seen/` and `unseen/`, and a manifest that pins every
file by hash; the published release holds them as `test/benchmark/` and `unseen/benchmark/`, and `biovita.bench.release`
finds its files. What the layout leaves open is refused here, with file, row and value: a pool without the true taxon,
an id that no index has, lists of different lengths, a file without rows. Row 1 is the first below the header.

Task files are large (100 lists of ids a row), so their JSON is cut at the list borders and each distinct list is parsed
once; text that is not in the plain form takes the strict, slow parser, with the same result.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from biovita.bench.release import BENCHMARK, PARTS, Media, find_media
from biovita.bench.tasks import LEVELS, MODALITIES, SPLITS, Modality, Rules, Scenario, Task, scenarios
from biovita.errors import BenchError
from biovita.files import MANIFEST, atomic_path, read_manifest, sha256_file, sha256_json
from biovita.log import say

NOT_ASKED = "not asked for"
RANK_COLUMNS = ("species", "genus", "family")
INDEX_COLUMNS: dict[Modality, tuple[str, ...]] = {
    "audio": ("id", "file_path", *RANK_COLUMNS),
    "image": ("id", "file_path", *RANK_COLUMNS),
    "text": ("id", *RANK_COLUMNS),
}
TASK_COLUMNS = (
    "query_id",
    "query_payload_id",
    "task",
    "taxon_level",
    "correct_taxon",
    "candidates_taxa",
    "candidates_target_ids",
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """An opened benchmark: which scenarios can run, and why the others cannot.

    Attributes:
        folder: what the user named.
        splits: folder of each split in the official layout that has something to run.
        present: scenarios with a task file.
        absent: the reason for each other one of the 36.
        media: files of each split of an official folder; none for ours, whose files are where the index says.
        dataset: the folder that `file_path` of our indices starts from.
        made_up: whether it stands on a made-up biosphere.
        sha256: one hash over the manifest, or over all files where there is none.
        facts: for the results: the rules that ours was made by, or what became of the files of an official folder.
    """

    folder: Path
    splits: dict[str, Path]
    present: list[Scenario]
    absent: dict[Scenario, str]
    media: dict[str, Media]
    dataset: Path
    made_up: bool
    sha256: str
    facts: dict[str, Any]

    def absent_here(self) -> dict[str, list[Scenario]]:
        """Group the absent scenarios of the splits that are there by reason."""
        reasons: dict[str, list[Scenario]] = {}
        for scenario, reason in self.absent.items():
            if reason not in (NOT_ASKED, _no_split(scenario.split)):
                reasons.setdefault(reason, []).append(scenario)
        return reasons

    def files(self, modality: Modality) -> dict[str, Path]:
        """Return the file of every sound or picture by its id, repaired where the index has another name for it."""
        found: dict[str, Path] = {}
        for split, home in self.splits.items():
            if split in self.media:
                root, names = self.media[split].root, self.media[split].names[modality]
            else:
                root, names = self.dataset, dict(read_index(home, modality).select("id", "file_path").iter_rows())
            found |= {item: root / name for item, name in names.items()}
        return found

    def text_index(self) -> pl.DataFrame:
        """Return the names of all splits, each id once; a column that only some splits have is null elsewhere."""
        return pl.concat([read_index(home, "text") for home in self.splits.values()], how="diagonal").unique("id")


def open_bench(folder: Path, split: str | None = None) -> Bench:
    """Open a benchmark folder, ours or the official layout, and prove that its files are there and unchanged.

    In the published release, or a part of it, the files that its indices mean are found, and one line says how.

    Args:
        folder: with `seen/` and `unseen/`, or `test/benchmark/` and `unseen/benchmark/`, or with index files and level
            folders directly (one split).
        split: take only this one; for a single split, its name (otherwise its folder's, or `unseen`).

    Raises:
        BenchError: no such folder or split, nothing to run, a level folder with some of its six files missing or
            empty, or an id that means two things. A level that is wholly missing, or wholly without rows as in the
            release, is absent.
        DatasetError: a file is not the one that the manifest pins.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BenchError(f"{folder}: no such benchmark folder; make one with `biovita bench make`")
    manifest = read_manifest(folder, verify=True) if (folder / MANIFEST).is_file() else {}
    splits = _find_splits(folder, split)
    present: list[Scenario] = []
    absent: dict[Scenario, str] = {}
    for name in (*splits, *(name for name in SPLITS if name not in splits)):
        for level in LEVELS:
            six = [scenario for scenario in scenarios(name) if scenario.level == level]
            not_there = NOT_ASKED if split else _no_split(name)
            reason = _why_absent(splits[name], six) if name in splits else not_there
            if reason:
                absent |= dict.fromkeys(six, reason)
            else:
                present += six
    if not present:
        reasons = sorted(set(absent.values()))
        raise BenchError(f"{folder}: no scenario can be run ({'; '.join(reasons)})")
    splits = {name: splits[name] for name in dict.fromkeys(scenario.split for scenario in present)}
    media: dict[str, Media] = {}
    if not manifest:
        indices = {name: read_indices(home) for name, home in splits.items()}
        _check_ids(folder, indices)
        media = {name: find_media(home, indices[name]) for name, home in splits.items()}
        for found in media.values():
            if found.is_there:
                say(found.line())
    rules = {rule: manifest.get(rule, default) for rule, default in asdict(Rules()).items()}
    return Bench(
        folder=folder,
        splits=splits,
        present=present,
        absent=absent,
        media=media,
        dataset=folder / manifest.get("dataset", "."),
        made_up=bool(manifest.get("made_up")),
        sha256=sha256_file(folder / MANIFEST) if manifest else _hash(splits),
        facts={"rules": rules} if manifest else {"files": {name: found.counts for name, found in media.items()}},
    )


def _find_splits(folder: Path, split: str | None) -> dict[str, Path]:
    """Find the splits of a folder: itself, its `benchmark/`, or one of either kind for each split."""
    for home in (folder, folder / BENCHMARK):
        if _is_split(home):
            return {split or _split_of(home): home}
    homes = {name: (folder / name, folder / PARTS[name] / BENCHMARK) for name in SPLITS}
    found = {name: next(filter(_is_split, both), None) for name, both in homes.items()}
    splits = {name: home for name, home in found.items() if home}
    if not splits:
        raise BenchError(f"{folder}: neither index files nor seen/ and unseen/; not a benchmark folder")
    if split is not None:
        if split not in splits:
            raise BenchError(f"{folder}: no split {split!r}; there is {' and '.join(splits)}")
        return {split: splits[split]}
    return splits


def _split_of(home: Path) -> str:
    """Name a split by its folder, or in the release by its part."""
    home = home.resolve()
    parts = {part: name for name, part in PARTS.items()}
    if home.name == BENCHMARK:
        return parts.get(home.parent.name, "unseen")
    return home.name if home.name in SPLITS else "unseen"


def _no_split(name: str) -> str:
    return f"no split {name}"


def _check_ids(folder: Path, indices: dict[str, dict[Modality, pl.DataFrame]]) -> None:
    """Refuse splits that number their items alike: one file of vectors could not serve both."""
    for modality in MODALITIES:
        ids = pl.concat([tables[modality]["id"] for tables in indices.values()])
        twice = ids.filter(ids.is_duplicated())
        if len(twice):
            raise BenchError(
                f"{folder}: {modality} id {twice[0]!r} is an item of {' and of '.join(indices)}; name the folder of "
                "one split, and give each its own vectors"
            )


def _is_split(folder: Path) -> bool:
    return any(path.is_file() for path in _index_paths(folder)) or any((folder / level).is_dir() for level in LEVELS)


def _index_paths(folder: Path) -> list[Path]:
    home = folder / "ids" if (folder / "ids").is_dir() else folder
    return [home / f"{modality}_index.csv" for modality in MODALITIES]


def _why_absent(folder: Path, six: list[Scenario]) -> str | None:
    """Say why a level has no task at all; a level that has some of its tasks is broken."""
    if not (folder / six[0].level).is_dir():
        return f"no folder {six[0].level}/"
    if not any((folder / scenario.file).exists() for scenario in six):
        return f"no task files in {six[0].level}/"
    empty = []
    for scenario in six:
        path = folder / scenario.file
        if not path.is_file():
            raise BenchError(f"{path}: missing task file; complete the level, or remove its folder to leave it out")
        with path.open("rb") as lines:
            if not lines.readline().strip():
                raise BenchError(f"{path}: empty file, not even a header; fetch or make it again")
            if not any(line.strip() for line in lines):
                empty.append(path)
    if empty and len(empty) < len(six):
        raise BenchError(f"{empty[0]}: a header without rows; a score over no query means nothing, so make it again")
    return "task files hold only headers" if empty else None


def _hash(splits: dict[str, Path]) -> str:
    """Hash index and task files; a part of the release has the same hash however it was named."""
    return sha256_json(
        {
            (f"{name}/" if len(splits) > 1 else "") + path.relative_to(home).as_posix(): sha256_file(path)
            for name, home in splits.items()
            for path in sorted(chain(home.glob("*.csv"), home.glob("ids/*.csv"), home.glob("*/test_*.csv")))
        }
    )


def read_index(folder: Path, modality: Modality) -> pl.DataFrame:
    """Read an index file: all columns are text, ids are unique.

    Raises:
        BenchError: the file, a column or an id is missing, or an id is repeated.
    """
    path = _index_paths(folder)[MODALITIES.index(modality)]
    table = _read_csv(path, INDEX_COLUMNS[modality])
    repeated = table.filter(pl.col("id").is_duplicated())
    if len(repeated):
        raise BenchError(f"{path}: id {repeated['id'][0]!r} occurs {(table['id'] == repeated['id'][0]).sum()} times")
    return table


def read_indices(folder: Path) -> dict[Modality, pl.DataFrame]:
    """Read the three index files of one split."""
    return {modality: read_index(folder, modality) for modality in MODALITIES}


def read_task(folder: Path, scenario: Scenario, indices: dict[Modality, pl.DataFrame]) -> Task:
    """Read one task file and check every row against the indices.

    A taxon that a pool lists twice is one candidate, at its first place, with the samples of both: a taxon scores as
    its best sample, so listing it twice says nothing new.

    Raises:
        BenchError: file, row and value of what is wrong.
    """
    path = folder / scenario.file
    table = _read_csv(path, TASK_COLUMNS)
    if len(table) == 0:
        raise BenchError(f"{path}: a header without rows; a score over no query means nothing, so make it again")
    _check_rows(path, table, "taxon_level", table["taxon_level"].str.to_lowercase() == scenario.level, scenario.level)
    tag = scenario.direction.upper()
    _check_rows(path, table, "task", table["task"].str.to_uppercase().str.starts_with(tag), f"{tag}...")
    known = table["query_payload_id"].is_in(indices[scenario.query]["id"].implode())
    _check_rows(path, table, "query_payload_id", known, f"an id of {scenario.query}_index.csv")

    n_taxa, names = _read_names(path, table["candidates_taxa"])
    n_groups, group, groups = _read_groups(path, table["candidates_target_ids"])
    for row in np.flatnonzero(n_taxa != n_groups)[:1]:
        raise BenchError(
            f"{path}: row {row + 1}: candidates_taxa has {n_taxa[row]} names but candidates_target_ids has "
            f"{n_groups[row]} lists; they must pair up"
        )
    taxa = sorted({*names.unique(), *table["correct_taxon"].unique()})
    taxon = _padded(n_taxa, _codes(names, taxa))
    correct = _codes(table["correct_taxon"], taxa)
    group = _padded(n_groups, group)
    taxon, group, groups = _merge_repeated(taxon, group, groups)
    for row in np.flatnonzero(~(taxon == correct[:, None]).any(axis=1))[:1]:
        raise BenchError(
            f"{path}: row {row + 1}: correct_taxon {table['correct_taxon'][int(row)]!r} is not among its "
            f"{n_taxa[row]} candidates, so the query has no right answer"
        )
    items = sorted(set(chain.from_iterable(groups)))
    unknown = set(items).difference(indices[scenario.target]["id"])
    if unknown:
        bad = [g for g, ids in enumerate(groups) if not unknown.isdisjoint(ids)]
        row = int(np.isin(group, bad).any(axis=1).argmax())
        raise BenchError(
            f"{path}: row {row + 1}: candidates_target_ids names {min(unknown)!r}, "
            f"which {scenario.target}_index.csv does not have ({len(unknown)} such ids)"
        )
    place = {item: i for i, item in enumerate(items)}
    return Task(
        scenario=scenario,
        query_id=table["query_id"].to_list(),
        payload_id=table["query_payload_id"].to_list(),
        correct=correct,
        taxon=taxon,
        group=group,
        taxa=taxa,
        group_start=np.cumsum([0, *map(len, groups)]),
        group_item=np.array([place[item] for ids in groups for item in ids], dtype=np.int64),
        items=items,
        taxon_class=_classes(table, indices["text"], scenario.level, taxa),
    )


def write_csv(path: Path, table: pl.DataFrame) -> None:
    """Write one CSV file of the layout atomically."""
    with atomic_path(path) as part:
        table.write_csv(part)


def join_names(names: list[str]) -> str:
    """Write a JSON list of names or ids."""
    return json.dumps(names, ensure_ascii=False)


def join_lists(lists: list[str]) -> str:
    """Write a JSON list of lists that are JSON already."""
    return f"[{', '.join(lists)}]"


def _read_csv(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    if not path.is_file():
        raise BenchError(f"{path}: missing; a benchmark split needs it")
    try:
        table = pl.read_csv(path, infer_schema=False, glob=False).fill_null("")
    except pl.exceptions.PolarsError as error:
        raise BenchError(f"{path}: not a readable CSV table ({str(error).splitlines()[0]})") from error
    for name in columns:
        if name not in table.columns:
            raise BenchError(f"{path}: no column {name}; the columns are {', '.join(table.columns)}")
    for name in set(columns) - set(RANK_COLUMNS):
        _check_rows(path, table, name, table[name] != "", "a value")
    return table


def _check_rows(path: Path, table: pl.DataFrame, column: str, is_good: pl.Series, wanted: str) -> None:
    if not is_good.all():
        row = int(is_good.arg_min() or 0)
        raise BenchError(f"{path}: row {row + 1}: {column} is {table[column][row]!r}, expected {wanted}")


def _read_names(path: Path, column: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Parse JSON lists of strings: how many in each row, and all of them in a row."""
    separator = '","' if '","' in column[0] else '", "'
    lists = column.str.slice(2).str.head(-2).str.split(separator)
    n = lists.list.len().to_numpy()
    plain = column.str.starts_with('["') & column.str.ends_with('"]') & ~column.str.contains("\\", literal=True)
    if plain.all() and (column.str.count_matches('"', literal=True).to_numpy() == 2 * n).all():
        return n, lists.list.explode()
    rows = [[_name(path, row, column.name, name) for name in names] for row, names in _iter_json(path, column)]
    return np.array([len(names) for names in rows]), pl.Series([*chain.from_iterable(rows)], dtype=pl.String)


def _read_groups(path: Path, column: pl.Series) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
    """Parse JSON lists of lists of ids: lists a row, the group of each list, and the distinct groups."""
    separator = "],[" if "],[" in column[0] else "], ["
    lists = column.str.slice(2).str.head(-2).str.split(separator)
    n = lists.list.len().to_numpy()
    plain = column.str.starts_with("[[") & column.str.ends_with("]]")
    for bracket in "[]":
        plain &= column.str.count_matches(bracket, literal=True) == lists.list.len() + 1
    if plain.all():
        flat = lists.list.explode()
        distinct = flat.unique().sort()
        try:
            groups = json.loads(f"[[{'],['.join(distinct)}]]")
        except ValueError:
            groups = []
        # No list holds a bracket of its own, so equal counts prove that each was parsed alone.
        if len(groups) == len(distinct) and all(type(item) in (str, int) for ids in groups for item in ids):
            return n, _codes(flat, distinct.to_list()), [[str(item) for item in ids] for ids in groups]
    found: dict[tuple[str, ...], int] = {}
    sizes, codes = [], []
    for row, lists_ in _iter_json(path, column):
        for ids in lists_:
            if not isinstance(ids, list):
                raise BenchError(f"{path}: row {row}: {column.name} holds {ids!r}, expected a list of ids")
            key = tuple(_id(path, row, column.name, item) for item in ids)
            codes.append(found.setdefault(key, len(found)))
        sizes.append(len(lists_))
    return np.array(sizes), np.array(codes, dtype=np.int32), [list(key) for key in found]


def _iter_json(path: Path, column: pl.Series) -> Iterator[tuple[int, list[Any]]]:
    for row, text in enumerate(column, start=1):
        try:
            value = json.loads(text)
        except ValueError as error:
            raise BenchError(f"{path}: row {row}: {column.name} is not JSON ({error}): {text[:60]!r}") from None
        if not isinstance(value, list):
            raise BenchError(f"{path}: row {row}: {column.name} is {text[:60]!r}, expected a JSON list")
        yield row, value


def _name(path: Path, row: int, column: str, value: object) -> str:
    if not isinstance(value, str):
        raise BenchError(f"{path}: row {row}: {column} holds {value!r}, expected names in quotes")
    return value


def _id(path: Path, row: int, column: str, value: object) -> str:
    """Ids are text; the release writes them as integers."""
    if type(value) not in (str, int):
        raise BenchError(f"{path}: row {row}: {column} holds {value!r}, expected ids (text or integers)")
    return str(value)


def _codes(values: pl.Series, names: list[str]) -> np.ndarray:
    """Replace each value by its place in `names`."""
    return values.replace_strict(names, np.arange(len(names)), return_dtype=pl.Int32).to_numpy()


def _padded(n: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Lay ragged rows out as a rectangle, -1 where a row has ended."""
    out = np.full((len(n), int(n.max())), -1, dtype=np.int32)
    out[np.arange(out.shape[1]) < n[:, None]] = flat
    return out


def _merge_repeated(
    taxon: np.ndarray, group: np.ndarray, groups: list[list[str]]
) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
    """Give every row distinct taxa: a repeated one keeps its first place and gets the ids of all."""
    in_order = np.sort(taxon, axis=1)
    repeated = ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)).any(axis=1)
    groups = list(groups)
    for row in np.flatnonzero(repeated):
        merged: dict[int, list[str]] = {}
        for t, g in zip(taxon[row], group[row], strict=True):
            if t >= 0:
                merged.setdefault(int(t), []).extend(groups[g])
        taxon[row], group[row] = -1, -1
        taxon[row, : len(merged)] = list(merged)
        group[row, : len(merged)] = np.arange(len(groups), len(groups) + len(merged))
        groups += merged.values()
    return taxon, group, groups


def _classes(table: pl.DataFrame, text_index: pl.DataFrame, level: str, taxa: list[str]) -> list[str | None]:
    """Find each taxon's class: the task's own column, else the text index where it knows exactly one."""
    if "taxon_class" in table.columns:
        source = table.select(taxon="correct_taxon", name="taxon_class")
    elif "class" in text_index.columns:
        source = text_index.select(taxon=level, name="class")
    else:
        return [None] * len(taxa)
    one = source.filter(pl.col("name") != "").unique().group_by("taxon").agg(pl.col("name"))
    one = one.filter(pl.col("name").list.len() == 1)
    known = dict(zip(one["taxon"], one["name"].list.first(), strict=True))
    return [known.get(name) for name in taxa]
