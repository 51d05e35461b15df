"""Hostile names, paths and URLs through a whole build: nothing leaves the folder, nothing is asked, nothing is lost."""

import re
import socket
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas
import polars as pl
import pytest
from PIL import Image

from biovita import cli
from biovita.data.build import TABLES
from biovita.data.dataset import Dataset, problems
from biovita.files import sha256_file
from biovita.sources.folder import read_manifest_table
from biovita.taxonomy.taxon import normal_name

N = 2000
N_FILES = 150  # hostile names that files really have
FORMULAS = ("=", "+", "-", "@", "\t", "\r")

CORES = (  # reference/reliability.md, 5.3; and what other formats would take for more than a name
    *(
        "CON",
        "NUL.wav",
        "aux",
        "COM1",
        "lpt9.mp3",
        "a.",
        "a ",
        " a",
        ".",
        "..",
        "...",
        "~",
        "~root",
        ".hidden",
        "x.part",
    ),
    *("-rf", "--out=elsewhere", "-", "*", "?", "[a-z]", "{a,b}", "$(touch pwned)", "`touch pwned`", "; touch pwned"),
    *("| touch pwned", "&& touch pwned", "'", '"', "\\", "%d%s%n", "%00", "${HOME}", "a\\b", "concat:a|b", "pipe:0"),
    *("file:///etc/passwd", "http://127.0.0.1/", "data:,x", "subfile,,start,0,end,9,,:x", "\n", "a\nb", "\t", "\r\n"),
    *("\x1b[2J", "\x1b]0;pwned\x07", "\x07", "\x7f", "\u202egpj.3pm", "\u2066a\u2069", "a\u200bb", "\ufeff", "\u00a0"),
    *("\u00e9", "e\u0301", "Strasse", "stra\u00dfe", "STRASSE", "\u0430ves", "\U0001f438", "\u3042", "\uff0e\uff0e"),
    *("../pwned", "../../pwned", "..\\pwned", "a/../../pwned", "%2e%2e/pwned", "%252e%252e%252fpwned", "..%c0%afpwned"),
    *(
        "\u2025/pwned",
        "\uff0e\uff0e/pwned",
        "..\u2215pwned",
        "/pwned",
        "//pwned",
        "/etc/passwd",
        "C:\\pwned",
        "a\0b",
        "\0",
    ),
    *('=HYPERLINK("http://127.0.0.1/","x")', "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\r=1+1", "=cmd|'/c calc'!A1"),
    *(
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a|b",
        "](javascript:alert(1))",
        "nan",
        "NULL",
        "None",
    ),
    *(
        "'; DROP TABLE file; --",
        "{{7*7}}",
        "a\u0300" * 100,
        "x" * 255,
        "\u00e9" * 127,
        "Avesgena speca",
        "a,b",
        '"a","b"',
    ),
)


def hostile_names(n: int) -> list[str]:
    """Make distinct hostile names, seeded: each core by itself, then two or three of them together."""
    rng = np.random.default_rng(53)
    names = dict.fromkeys(CORES)
    while len(names) < n:
        names["".join(rng.choice(np.array(CORES, object), rng.integers(2, 4))) + str(len(names))] = None
    return list(names)


def is_file_name(name: str) -> bool:
    """Whether Linux takes it as the name of a file in a folder."""
    return "/" not in name and "\0" not in name and name not in (".", "..") and len(name.encode()) <= 255


def fill(folder: Path, names: list[str]) -> pl.DataFrame:
    """Write rows of every kind, and the files that some of them name.

    Every name is the media_id, holder, remarks, page and occasion of its row, and besides, in turn, the path of a file
    that is there, the path of one that is not, the scientific name, and the licence.
    """
    rng = np.random.default_rng(7)
    species = pl.read_parquet(folder / "taxa.parquet")["species"]
    paths = [name for name in names if is_file_name(name) and name.strip()]
    real = {paths[i] for i in rng.permutation(len(paths))[:N_FILES]} | {"x" * 255, "-rf", "a\nb"}
    rows = []
    for i, name in enumerate(names):
        row = {"path": "0-0.png", "scientific_name": species[i % len(species)], "licence": "CC0", "kind": "there"}
        if name in real:
            row["path"] = name
            picture = Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8))
            with (folder / name).open("wb") as file:
                picture.save(file, "PNG")
        else:
            other, column = (("gone", "path"), ("name", "scientific_name"), ("licence", "licence"))[i % 3]
            row |= {column: name, "kind": other}
        texts = ("media_id", "rights_holder", "remarks", "page_url", "individual", "common_name")
        rows.append({**row, **dict.fromkeys(texts, name), "modality": "image"})
    return pl.DataFrame(rows)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) if path.is_file() else "" for path in folder.rglob("*")}


def read_sheet(path: Path) -> pandas.DataFrame:
    return pandas.read_csv(path, keep_default_na=False, dtype=str)


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["biovita", *map(str, words)])
    return cli.main()


def test_two_thousand_hostile_names_stay_inside_and_are_all_accounted_for(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    names = hostile_names(N)
    assert len(set(names)) == N
    good = pl.read_csv(source / "records.tsv", separator="\t", infer_schema=False)
    hostile = fill(source, names)
    table = pl.concat([good.with_columns(media_id=pl.format("good:{}", "path")), hostile], how="diagonal")
    table.drop("kind").write_parquet(source / "records.parquet")
    monkeypatch.chdir(source)
    before = contents(tmp_path)
    out = tmp_path / "out"
    code = run(monkeypatch, "data", "build", "--manifest", source / "records.parquet", "--out", out, "--withheld", 2)
    assert code == 3

    after = contents(tmp_path)
    assert {name: digest for name, digest in after.items() if not re.match(r"out(/|$)", name)} == before
    assert not list(Path("/").glob("pwned*"))
    known = {*TABLES, "media", "card.png", "manifest.json", "run.json", "ledger.sqlite"}
    assert {path.name for path in out.iterdir()} - {"ledger.sqlite-wal", "ledger.sqlite-shm"} == known
    dataset = Dataset.open(out, verify=True)
    assert problems(dataset) == []
    media, refused = dataset.media, dataset.quarantine
    assert len(media) + len(refused) == len(good) + N == dataset.manifest["counts"]["records"]
    assert sorted([*media["media_id"], *refused["media_id"]]) == sorted(table["media_id"])
    assert media["path"].is_unique().all()
    assert media["path"].str.contains(r"^media/[0-9a-f]{2}/[0-9a-f]{64}\.(png|wav|flac)$").all()

    reasons = dict(refused.select("media_id", "reason").iter_rows())
    fate = hostile.select(
        "media_id", "path", "kind", pl.col("media_id").replace_strict(reasons, default="ok").alias("end")
    )
    ends = {kind[0]: set(rows["end"]) for kind, rows in fate.group_by("kind")}
    assert ends["there"] == {"ok", "unsafe_name"}
    assert ends["gone"] == {"unreadable", "unsafe_name"}
    assert ends["licence"] == {"licence_refused"}
    named = fate.filter(pl.col("kind") == "name", pl.col("end") != "name_unresolved")
    assert named["path"].n_unique() == 1  # all are the same file, which the good table has as well
    assert {normal_name(name) for name in named["media_id"]} == {"Avesgena speca"}, named["media_id"].to_list()
    kept = fate.filter(kind="there", end="ok")
    assert len(kept) > 0.8 * N_FILES
    for media_id, path in kept.select("media_id", "path").iter_rows():
        [row] = media.filter(media_id=media_id).iter_rows(named=True)
        assert sha256_file(source / path) == row["sha256"]
        assert (row["rights_holder"], row["remarks"], row["individual"]) == (media_id,) * 3
    said = capfd.readouterr()
    assert said.out == ""
    assert all(c.isprintable() for c in said.err.replace("\n", ""))
    for text in ((out / "card.md").read_text(), (out / "croissant.json").read_text()):
        assert "<script" not in text
        assert all(c.isprintable() or c == "\n" for c in text)


def test_tables_of_hostile_names_open_elsewhere_and_run_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = hostile_names(400)
    hostile = fill(source, names).filter(kind="there").drop("kind")
    hostile = hostile.with_columns(
        recorded_at=pl.lit("2026-05-01T04:30:00Z"), latitude_deg=pl.lit("1"), longitude_deg=pl.lit("2")
    )
    good = pl.read_csv(source / "records.tsv", separator="\t", infer_schema=False)
    pl.concat([good, hostile], how="diagonal").write_parquet(source / "records.parquet")
    out = tmp_path / "out"
    words = ("data", "build", "--manifest", source / "records.parquet", "--out", out, "--withheld", 2, "--quiet")
    assert run(monkeypatch, *words) in (0, 3)
    dataset = Dataset.open(out)
    for name in TABLES:
        if name.endswith(".parquet"):
            assert pandas.read_parquet(out / name).equals(pl.read_parquet(out / name).to_pandas()), name
    assert run(monkeypatch, "data", "export", out, "--to", "camtrap-dp", "--out", tmp_path / "camtrap", "--quiet") == 0
    sheets = {path: read_sheet(path) for path in [out / "CREDITS.csv", *(tmp_path / "camtrap").rglob("*.csv")]}
    assert len(sheets) > 4
    for path, sheet in sheets.items():
        for column in sheet.columns:
            assert not sheet[column].str.startswith(FORMULAS).any(), (path.name, column)
    credits = sheets[out / "CREDITS.csv"]
    plain = [text[1:] if text[:1] == "'" and text[1:].startswith(FORMULAS) else text for text in credits["media_id"]]
    assert plain == dataset.media["media_id"].to_list()


def test_names_that_differ_only_in_case_or_composition_are_two(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    names = ("\u00e9.png", unicodedata.normalize("NFD", "\u00e9.png"), "Voice.png", "voice.png", "CON.png", "con.png")
    for name in names:
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(source / name)
    good = pl.read_csv(source / "records.tsv", separator="\t", infer_schema=False)
    rows = pl.DataFrame({"path": names}).with_columns(
        scientific_name=pl.lit(good["scientific_name"][0]), modality=pl.lit("image"), licence=pl.lit("CC0")
    )
    pl.concat([good, rows], how="diagonal").write_csv(source / "records.tsv", separator="\t")
    words = ("data", "build", "--manifest", source / "records.tsv", "--out", tmp_path / "out", "--quiet")
    assert run(monkeypatch, *words) == 0
    media = Dataset.open(tmp_path / "out").media.filter(pl.col("media_id").is_in([f"folder:{name}" for name in names]))
    assert media["sha256"].n_unique() == len(media) == len(names)


LOCAL = (  # this machine and its neighbours, in the spellings that parsers differ about
    *(
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "127.0.0.1.",
        "localhost",
        "LOCALHOST",
    ),
    *("localhost.", "[::1]", "[::ffff:127.0.0.1]", "[::]", "0", "0.0.0.0", "169.254.169.254", "0xa9fea9fe", "10.0.0.1"),
    *("192.168.1.1", "metadata.google.internal", "127.0.0.1.nip.io", "\uff11\uff12\uff17.0.0.1", "[fe80::1%25lo]"),
)
GOOD = ("xeno-canto.org", "api.gbif.org", "static.inaturalist.org", "inaturalist-open-data.s3.amazonaws.com")
FORMS = (
    *("http://{bad}/{n}", "https://{bad}/{n}", "https://{bad}:443/{n}", "ftp://{bad}/{n}", "//{bad}/{n}", "{bad}/{n}"),
    *(
        "file:///etc/passwd?{n}",
        "file://{bad}/{n}",
        "gopher://{bad}/_{n}",
        "data:image/png;base64,{n}",
        "jar:https://{bad}!/{n}",
    ),
    *("http://{good}/{n}", "https://{good}@{bad}/{n}", "https://{good}:443@{bad}/{n}", "https://u:p@{good}/{n}"),
    *(
        "https://{bad}#@{good}/{n}",
        "https://{good}#@{bad}/{n}",
        "https://{bad}\\@{good}/{n}",
        "https://{good}\\.{bad}/{n}",
    ),
    *(
        "https://{good}.{bad}/{n}",
        "https://{bad}.{good}/{n}",
        "https://{good}%40{bad}/{n}",
        "https://{good}%2f@{bad}/{n}",
    ),
    *(
        "https:/{good}/{n}",
        "https:///{good}/{n}",
        "https:{good}/{n}",
        "https://{good}:80/{n}",
        "https://{good}:8443/{n}",
    ),
    *("https://{good} /{n}", " https://{good}/{n}", "https://{good}/{n} ", "https://{good}/{n}\r\nHost: {bad}"),
    *(
        "https://{good}/{n}\0",
        "https://{good}\t/{n}",
        "https://.{good}/{n}",
        "https://{good}../{n}",
        "https://x{good}/{n}",
    ),
    *("https://{good}x/{n}", "https://www.{good}.org/{n}", "https://[{good}]/{n}", "\nhttps://{good}/{n}"),
)


def hostile_urls(n: int, port: int) -> list[str]:
    """Make distinct hostile URLs, seeded; most lead to a port of this machine."""
    rng = np.random.default_rng(55)
    urls: dict[str, None] = {}
    while len(urls) < n:
        bad = f"{LOCAL[rng.integers(len(LOCAL))]}{('', f':{port}')[rng.integers(2)]}"
        form = FORMS[len(urls) % len(FORMS)]
        urls[form.format(bad=bad, good=GOOD[rng.integers(len(GOOD))], n=len(urls))] = None
    return list(urls)


@contextmanager
def listener() -> Iterator[tuple[int, list[object]]]:
    """Listen on all addresses of this machine; yield the port and who came."""
    came: list[object] = []
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, address = server.accept()
                    came.append(address)
                    connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_two_thousand_hostile_urls_reach_nobody_and_are_all_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIOVITA_HOME", str(tmp_path / "home"))
    records = read_manifest_table(source / "records.tsv")
    with listener() as (port, came):
        with socket.create_connection(("127.0.0.1", port)):
            pass  # it hears
        urls = hostile_urls(N, port)
        assert len(set(urls)) == N
        rows = pl.DataFrame({"media_id": [f"h:{n}" for n in range(N)], "url": urls}).with_columns(
            pl.lit(value).alias(name)
            for name, value in (("source", "h"), ("modality", "image"), ("licence", "CC0-1.0"),
                                ("scientific_name", records["scientific_name"][0]))
        )  # fmt: skip
        pl.concat([records, rows], how="diagonal").write_parquet(tmp_path / "records.parquet")
        words = ("--sources", f"records:{tmp_path / 'records.parquet'}", "--taxa", source / "taxa.parquet")
        assert run(monkeypatch, "data", "build", *words, "--out", tmp_path / "out", "--withheld", 2, "--quiet") == 3
        assert len(came) == 1
    dataset = Dataset.open(tmp_path / "out")
    assert problems(dataset) == []
    assert len(dataset.media) == len(records)
    refused = dataset.quarantine
    assert set(refused["media_id"]) == set(rows["media_id"])
    assert len(refused) == N
    assert set(refused["reason"]) == {"download_failed"}
    assert refused["detail"].n_unique() == N
    why = refused["detail"].str.extract(r"(?s): ([a-z ,0-9]+)$")
    assert set(why) == {"not a plain web address", "not https", "not an allowed host", "not an allowed port"}
