"""From what the public sources give to a dataset, by the commands that people type: complete, repeatable, resumable."""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from published import CAP, SOURCES, Outside, Ran, path_of, publish
from published import FaultServer as Server

from biovita.data.build import TABLES
from biovita.data.dataset import Dataset, problems
from biovita.files import sha256_file
from biovita.sources import xeno_canto
from biovita.taxonomy.traits import TRAITS
from biovita.world.publish import make_world

PREFIXES = {"xc": "xc:", "inat": "inat:", "gbif": "gbif:", "folder": "folder:"}
TRANSIENT = ("ledger", "run.json", "manifest.json", "incoming")


@pytest.fixture(scope="module")
def outside(once: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """A world of 12 species in the hands of the public sources, with the server of its media."""
    world = once("sources_world", lambda home: make_world(home / "w", n_species=12, n_recordings=5, n_images=5, seed=3))
    folder = tmp_path_factory.mktemp("published")
    with Server(folder) as server:
        yield publish(world / "w", folder, server)


@pytest.fixture(scope="module")
def built(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran, list[str]]:
    """The dataset, built once without a hitch; what it printed, and what it asked the server for."""
    out = tmp_path_factory.mktemp("whole") / "dataset"
    outside.server.forget()
    ran = outside.build(out)
    return out, ran, [path for _, path in outside.server.hits]


@pytest.fixture
def whole(built: tuple[Path, Ran, list[str]]) -> Path:
    return built[0]


def contents(out: Path) -> dict[str, Any]:
    """Everything in a dataset folder that a second build should give again, byte by byte."""
    files = [path for path in out.rglob("*") if path.is_file()]
    names = {str(path.relative_to(out)): path for path in files if not str(path.relative_to(out)).startswith(TRANSIENT)}
    assert {*TABLES} <= set(names)
    manifest = json.loads((out / "manifest.json").read_text())
    return {name: sha256_file(path) for name, path in names.items()} | {"manifest": {**manifest, "run": None}}


def given(outside: Outside, *, offline: bool = True) -> dict[str, pl.DataFrame]:
    """Read every source by itself."""
    tables = {}
    for source in SOURCES:
        path = outside.folder / f"{source.replace(':', '-').replace('/', '-')}.parquet"
        assert outside("data", "records", source, "--out", path, *(["--offline"] if offline else [])).code == 0
        tables[source] = pl.read_parquet(path)
    return tables


def test_every_record_of_every_source_is_kept_refused_or_over_a_cap(outside: Outside, whole: Path) -> None:
    records = pl.concat(given(outside).values())
    dataset = Dataset.open(whole, verify=True)
    assert problems(dataset) == []
    counts = dataset.manifest["counts"]
    assert counts["records"] == len(records) == counts["ok"] + counts["quarantined"] + counts["left_out"]
    kept, refused = set(dataset.media["media_id"]), dataset.quarantine["media_id"].to_list()
    assert len(refused) == len(set(refused))
    assert not kept & set(refused)
    left_out = records.filter(~pl.col("media_id").is_in([*kept, *refused]))
    assert set(left_out["modality"]) == {"image"}
    assert counts["left_out"] == len(left_out) > 0
    for source, prefix in PREFIXES.items():
        n = {name: sum(media_id.startswith(prefix) for media_id in ids) for name, ids in (("kept", kept),
             ("refused", refused), ("left out", left_out["media_id"]))}  # fmt: skip
        of_source = records.filter(pl.col("source") == source)
        assert counts["sources"][source] == {"records": len(of_source), "ok": n["kept"]}
        assert sum(n.values()) == len(of_source) > 15
        assert n["kept"] > 10
    species = dict(dataset.names.select("scientific_name", "species").iter_rows())
    asked = dataset.quarantine.filter(pl.col("reason").is_in(["truncated", "unreadable", "download_failed"]))[
        "media_id"
    ]
    taken = records.filter(pl.col("media_id").is_in([*kept, *asked]), modality="image")["scientific_name"]
    n_taken = taken.replace_strict(species).value_counts()
    assert n_taken["count"].max() == CAP
    assert set(left_out["scientific_name"].replace_strict(species)) <= set(n_taken.filter(count=CAP)["scientific_name"])


def test_what_is_wrong_is_refused_with_its_reason_and_ends_in_exit_3(
    outside: Outside, built: tuple[Path, Ran, list[str]]
) -> None:
    out, ran, _ = built
    reasons = dict(Dataset.open(out).quarantine.select("media_id", "reason").iter_rows())
    copies = reasons.keys() - outside.bad.keys()
    assert {media_id: reasons[media_id] for media_id in outside.bad} == outside.bad
    assert [reasons[copy] for copy in copies] == ["duplicate"]
    assert (ran.code, ran.out) == (3, "")
    for said in (
        "recordings without a file (restricted species): 1",
        f"{len(reasons)} refused",
        "download_failed: xc:901 (https://xeno-canto.org/404?901: 404)",
        "(https://elsewhere.example/913.jpg: not an allowed host)",
        "(http://media.museum.example/914.jpg: not https)",
        "html_document: xc:902",
        "'Mystery mystery': a placeholder of Xeno-canto",
        "the source means another animal by it: class",
    ):
        assert said in ran.err
    assert "Traceback" not in ran.err


def test_one_recording_from_two_sources_is_one_row(outside: Outside, whole: Path) -> None:
    dataset = Dataset.open(whole)
    details = dict(dataset.quarantine.filter(reason="duplicate").select("media_id", "detail").iter_rows())
    [by_url] = [media_id for media_id in details if media_id.startswith("gbif:911:")]
    [by_bytes] = details.keys() - {by_url}
    assert "same url as inat:photo:" in details[by_url]
    assert "same bytes as " in details[by_bytes]
    other = details[by_bytes].partition("same bytes as ")[2]
    assert by_bytes.startswith("gbif:912:")
    assert other.startswith("xc:")  # which the run file names first; both say the same species
    assert len(dataset.media.filter(media_id=other)) == 1
    assert dataset.media["sha256"].is_unique().all()


def test_a_photo_and_a_sound_of_one_animal_share_a_split_whoever_gave_them(outside: Outside, whole: Path) -> None:
    media = Dataset.open(whole).media
    uuids = media["individual"].str.replace("inat:uuid-", "inat:")
    torn = media.with_columns(individual=uuids).filter(pl.col("individual").is_in(outside.torn))
    shared = torn.group_by("individual").agg("modality", "source", "media_id", split=pl.col("split").unique())
    both = shared.filter(pl.col("modality").list.n_unique() == 2)
    assert len(both) > 5
    from_gbif = both.filter(pl.col("source").list.contains("gbif"))
    from_open_data = both.filter(~pl.col("source").list.contains("gbif"))
    assert min(len(from_gbif), len(from_open_data)) > 2
    assert both["split"].list.len().max() == 1
    assert both["split"].list.first().n_unique() > 1
    assert media.filter(pl.col("individual").str.starts_with("inat:uuid-"))["individual"].len() == sum(
        media_id.startswith("inat:photo") for ids in from_open_data["media_id"] for media_id in ids
    )


def test_names_traits_and_languages_come_from_their_lists(outside: Outside, whole: Path) -> None:
    taxa = Dataset.open(whole).taxa
    for species, common_name, spoken in taxa.select("species", "common_name", "common_names").iter_rows():
        assert json.loads(spoken) == {"en": common_name, "de": f"{common_name}vogel"}, species
    mammals = taxa.filter(pl.col("class") == "Mammalia")
    assert len(mammals) > 2
    assert mammals["herbivore"].all()
    assert mammals["lives_in_groups"].all()
    assert set(mammals["traits_source"].str.json_path_match("$.herbivore")) == {"combine"}
    others = taxa.filter(pl.col("class") != "Mammalia").select("species", *TRAITS)
    listed = pl.read_csv(outside.folder / "taxa.csv").select("species", *TRAITS).sort("species")
    assert others.equals(listed.join(others, on="species", how="semi", maintain_order="left"))
    assert others["diurnal"].null_count() == 0


def test_a_second_run_asks_nothing_again_and_gives_the_same_bytes(
    outside: Outside, built: tuple[Path, Ran, list[str]]
) -> None:
    out, ran, hits = built
    assert sorted(path for path in set(hits) if hits.count(path) > 1) == ["/503_burst"]
    before = contents(out)
    outside.server.forget()
    again = outside.build(out)
    assert outside.server.hits == []
    assert contents(out) == before
    assert again.code == 3
    summary = next(line for line in ran.err.splitlines() if "files of 12 species" in line)
    assert summary in again.err.splitlines()


def test_offline_takes_what_is_there_and_refuses_the_rest_with_a_reason(
    outside: Outside, whole: Path, tmp_path: Path
) -> None:
    before = contents(whole)
    outside.server.forget()
    finished = shutil.copytree(whole, tmp_path / "finished" / "dataset")
    assert outside.build(finished, "--offline").code == 3
    assert problems(Dataset.open(finished)) == []
    assert Dataset.open(finished).media.equals(Dataset.open(whole).media)
    ran = outside.build(tmp_path / "dataset", "--offline")
    assert outside.server.hits == []
    dataset = Dataset.open(tmp_path / "dataset")
    assert set(dataset.media["source"]) == {"folder"}
    failed = dataset.quarantine.filter(reason="download_failed")
    assert len(failed) > 60
    assert failed["detail"].str.ends_with(": offline").sum() == len(failed)
    assert ran.code == 3
    assert problems(dataset) == []
    # and with the net again, the rest is fetched
    assert outside.build(tmp_path / "dataset").code == 3
    assert contents(tmp_path / "dataset") == before


def test_a_finished_dataset_is_sound_and_goes_on_as_shards_and_exports(
    outside: Outside, whole: Path, tmp_path: Path
) -> None:
    ran = outside("data", "verify", whole, "--json")
    assert (ran.code, json.loads(ran.out)["problems"]) == (0, [])
    n_media = len(Dataset.open(whole).media)
    assert outside("data", "shard", whole, "--out", tmp_path / "shards", "--shard-mb", 2).code == 0
    samples = json.loads((tmp_path / "shards" / "manifest.json").read_text())["samples"]
    assert len(samples) > 4
    assert sum(samples.values()) == n_media
    assert outside("data", "export", whole, "--to", "hub-parquet", "--out", tmp_path / "hub").code == 0
    licences = Dataset.open(whole).media["licence"]
    n_rows = sum(pl.scan_parquet(path).select(pl.len()).collect().item() for path in tmp_path.glob("hub/**/*.parquet"))
    assert n_rows == len(licences.filter(~licences.str.contains("NC")))
    assert outside("data", "export", whole, "--to", "camtrap-dp", "--out", tmp_path / "camtrap").code == 0
    assert len(list(tmp_path.glob("camtrap/**/datapackage.json"))) == licences.n_unique()


def test_a_table_of_records_builds_what_its_source_does(outside: Outside, whole: Path, tmp_path: Path) -> None:
    tables = [f"records:{source.replace(':', '-').replace('/', '-')}.parquet" for source in given(outside)]
    ran = outside.build(tmp_path / "dataset", "--sources", *tables)
    assert ran.code == 3
    assert contents(tmp_path / "dataset") == contents(whole)


def test_a_file_is_taken_in_however_a_table_of_records_spells_its_path(outside: Outside, tmp_path: Path) -> None:
    local = given(outside)["files:files/files.tsv"]
    n = pl.int_range(pl.len())
    untidy = pl.when(n % 2 == 0).then(pl.col("file").str.replace("/files/", "/./files//")).otherwise("file")
    local.with_columns(untidy).write_parquet(tmp_path / "records.parquet")
    ran = outside.build(tmp_path / "dataset", "--sources", f"records:{tmp_path / 'records.parquet'}")
    assert ran.code == 3
    counts = Dataset.open(tmp_path / "dataset").manifest["counts"]
    assert counts["records"] == len(local)
    assert counts["reasons"] == {"truncated": 1, "unreadable": 1, "unsafe_name": 1}


def test_parts_of_a_build_together_give_the_same_bytes(outside: Outside, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    outside.server.forget()
    n_asked, n_refused = [], []
    for part in ("2/2", "1/2"):
        ran = outside.build(out, "--shard", part)
        [said] = re.findall(rf"part {part}: \d+ files taken in, (\d+) refused", ran.err)
        n_refused.append(int(said))
        assert ran.code == (3 if n_refused[-1] else 0)  # which part a file falls into changes with the server's port
        assert not (out / "manifest.json").exists()
        n_asked.append(len({path for _, path in outside.server.hits}))
    assert sum(n_refused) > 0
    assert 20 < n_asked[0] < n_asked[1]
    outside.server.forget()
    outside.build(out)
    assert outside.server.hits == []
    assert contents(out) == contents(whole)


def test_a_query_saves_pages_that_are_not_asked_for_again_and_hold_no_key(
    outside: Outside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = json.loads((outside.folder / "xc" / "page_00001.json").read_text())
    outside.server.bodies["api/3/recordings"] = json.dumps({**page, "numPages": 1}).encode()
    words = ("data", "records", f"xeno-canto:{tmp_path / 'pages'}", "--out", tmp_path / "xc.parquet")
    ran = outside(*words, "--query", "gen:gladola q:A")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"biovita: {xeno_canto.KEY_VARIABLE} is not set: ")
    monkeypatch.setenv(xeno_canto.KEY_VARIABLE, "sesame0123")
    outside.server.forget()
    for _ in range(2):
        ran = outside(*words, "--query", "gen:gladola q:A", "--json")
        assert ran.code == 0
        assert json.loads(ran.out)["n"] == 10
        assert [path.partition("&key")[0] for _, path in outside.server.hits] == [
            "/api/3/recordings?query=gen%3Agladola+q%3AA&page=1&per_page=500"
        ]
    assert "sesame" not in ran.out + ran.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"sesame" in path.read_bytes()]
    assert len(pl.read_parquet(tmp_path / "xc.parquet")) == 10


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import pytest
from published import lead_to
from pathlib import Path
from biovita import cli
from biovita.data import ledger
with pytest.MonkeyPatch.context() as patch:
    lead_to(patch, Path(sys.argv[2]), int(sys.argv[3]))
    sys.argv = ["biovita", "data", "build", "run.toml", "--out", sys.argv[4]]
    sys.exit(cli.main())
"""
MOMENTS: dict[str, Callable[[Path, Server], bool]] = {
    "after the first requests": lambda _, server: len(server.hits) >= 3,
    "in the middle of the downloads": lambda out, _: len(list(out.glob("media/*/*"))) > 50,  # half of them local
    "while tables are written": lambda out, _: (out / "taxa.parquet").is_file(),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_build_killed_at_any_moment_goes_on_to_the_same_bytes(
    outside: Outside, whole: Path, tmp_path: Path, moment: str
) -> None:
    out, server = tmp_path / "dataset", outside.server
    server.forget()
    words = [sys.executable, "-c", CHILD, str(Path(__file__).parent), outside.folder, str(server.port), out]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not MOMENTS[moment](out, server):
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    with closing(sqlite3.connect(out / "ledger.sqlite")) as ledger:
        verified = {path_of(url) for (url,) in ledger.execute("SELECT url FROM fetch WHERE state = 'ok'")}
    assert len(verified) > 10 or moment == "after the first requests"
    server.forget()
    assert outside.build(out).code == 3
    assert contents(out) == contents(whole)
    assert not verified & {path.strip("/") for _, path in server.hits}


MISTAKES = {
    "an unknown kind": (
        ("--sources", "xenocanto:xc"),
        "source 'xenocanto:xc': write KIND:PATH, with a kind of",
    ),
    "no path": (("--sources", "gbif"), "source 'gbif': write KIND:PATH"),
    "a path that is not there": (("--sources", "inaturalist:nowhere"), "--sources inaturalist:nowhere: no such file"),
    "a part beyond the last": (("--shard", "3/2"), "--shard 3/2: write i/n, from 1/n to n/n"),
    "traits that are not there": (("--traits", "nowhere"), "--traits nowhere: no such folder"),
    "a folder without traits": (("--traits", "xc"), "xc: holds no trait table that is known"),
    "a name list that is not there": (("--taxa", "nowhere.csv"), "nowhere.csv: no such table"),
    "no workers": (("--workers", "0"), "--workers 0: "),
    "a cap below nothing": (("--max-images", "-1"), "--max-images -1: "),
    "a share that is no number": (("--withheld", "nan"), "--withheld nan: "),
    "a host with a path": (("--hosts", "https://example.org/"), "--hosts https://example.org/: "),
    "a contact with a line break": (("--contact", "a\nb"), "contact 'a\\nb': use an e-mail or web address"),
    "a file in the place of the folder": (("--out", "run.toml"), "run.toml: not empty and not a dataset of ours"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_2(outside: Outside, tmp_path: Path, mistake: str) -> None:
    words, said = MISTAKES[mistake]
    ran = outside.build(tmp_path / "dataset", *words, "--quiet")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"biovita: {said}"), ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("build",), "data build: name a table of files (--manifest) or sources"),
        (("build", "--sources", "gbif:gbif.zip"), "--taxa: name a list of species"),
        (("records", "gbif:gbif.zip", "--query", "taxonKey=1", "--offline"), "--query asks a server, and --offline"),
        (("records", "files:files/files.tsv", "--query", "x"), "--query: 'files' is read from a saved dump"),
        (("records", "inaturalist:new", "--query", "taxon_id=3"), "query 'taxon_id=3': say sounds=true or photos=true"),
        (("records", "gbif:nowhere"), "nowhere: "),
        (("records", "gbif:gbif.zip", "--out", "records.csv"), "--out records.csv: "),
        (("records", "gbif:gbif.zip", "--out", "xc"), "--out xc: "),
    ],
)
def test_a_call_that_lacks_something_says_what(outside: Outside, words: tuple[str, ...], said: str) -> None:
    more = () if "--out" in words else ("--out", "never.parquet")
    ran = outside("data", *words, *more, "--quiet")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"biovita: {said}"), ran.err
    assert ran.err.count("\n") == 1
    assert not (outside.folder / "never.parquet").exists()


def test_hosts_that_are_not_allowed_are_counted_with_what_to_do(built: tuple[Path, Ran, list[str]]) -> None:
    assert "1 file on hosts that are not asked: elsewhere.example (1); add them with --hosts" in built[1].err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("verify", "w"), "w: not a dataset"),
        (("card", "w"), "w: not a dataset"),
        (("shard", "dataset", "--shard-mb", "0"), "--shard-mb 0: use at least 1"),
        (("export", "dataset", "--to", "camtrap-dp", "--license", "cc0"), "--license cc0: camtrap-dp writes a package"),
        (("export", "dataset", "--to", "hub-parquet", "--acoustic", "True"), "--acoustic: its terms are those of"),
        (("export", "dataset", "--to", "hub-parquet", "--license", "gpl"), "--license gpl: unknown; use cc0"),
        (("check", "dataset", "--workers", "0"), "--workers 0: use at least 1"),
    ],
)
def test_a_finished_folder_is_asked_for_what_it_can_give(
    outside: Outside, whole: Path, once: Callable[..., Path], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    places = {"dataset": whole, "w": once("sources_world", lambda _: None) / "w"}
    more = ("--out", tmp_path / "never") if words[0] in ("shard", "export") else ()
    ran = outside("data", *(places.get(word, word) for word in words), *more)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.startswith("biovita: ")
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "never").exists()
