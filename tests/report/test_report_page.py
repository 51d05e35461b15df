"""The page as a whole: it stands alone, says what the results file says, and lets no name break out."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from fabricated import EVIL_COMMON, EVIL_SPECIES, EVIL_STAGE, Run

from biovita.report.html import write_report

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Tags, attributes and visible text; refuses tags that are not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text, self.cells, self.open = "", {}, []
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] in ("style", "script"):
            return
        self.text += data
        for tag, name in self.open:
            if tag == "td" and name:
                self.cells[name] = self.cells.get(name, "") + " " + data

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def parsed(page: str) -> Page:
    return Page(page)


def test_the_page_stands_alone(page: str, parsed: Page) -> None:
    bare = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|file:|//[a-z]|@import|<link|<iframe|<base|<object|<embed", bare, re.I)
    for name in ("src", "href", "xlink:href", "poster", "srcset", "action", "data"):
        for value in parsed.attributes(name):
            assert value.startswith(("data:", "#")), f"{name}={value[:80]}"
    assert all(value.startswith("#") for value in re.findall(r"url\(([^)]*)\)", page))
    assert "default-src 'none'" in page


def test_ids_are_unique_and_references_end_somewhere(page: str, parsed: Page) -> None:
    ids = parsed.attributes("id")
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for name in ("href", "xlink:href") for value in parsed.attributes(name) if value[0] == "#"}
    assert wanted | set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)


def test_every_picture_and_figure_has_a_text(parsed: Page) -> None:
    assert all(attrs.get("alt") for tag, attrs in parsed.tags if tag == "img")
    for tag, attrs in parsed.tags:
        if tag == "svg" or attrs.get("role") == "img":
            assert attrs.get("aria-label") or attrs.get("aria-hidden") == "true"


def test_cells_show_the_numbers_of_the_results_file(run: Run, parsed: Page) -> None:
    scenarios = run.content()["scenarios"]
    assert len(scenarios) == 36
    for row in scenarios:
        cell = parsed.cells[f"{row['split']}-{row['level']}-{row['direction']}"]
        low, high = row["ci95"]["top1"]
        times = row["top1"] / row["chance"]["top1"]
        assert f" {100 * row['top1']:.1f} " in cell
        assert f"{100 * low:.1f}\u2013{100 * high:.1f}" in cell
        assert f"top-5 {100 * row['top5']:.1f} · {times:.{0 if times >= 9.95 else 1}f}\u00d7" in cell
        assert f"{row['n_queries']} / {row['n_candidates']}" in cell
        assert ("not above chance" in cell) == (low <= row["chance"]["top1"])
    for level, splits in run.content()["mean"].items():
        for split, mean in splits.items():
            assert f" {100 * mean['top1']:.1f} " in parsed.cells[f"{split}-{level}-mean"]


def test_hostile_names_stay_text(page: str, parsed: Page) -> None:
    assert sum(tag == "script" for tag, _ in parsed.tags) == 1
    assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on")]
    for name in (EVIL_SPECIES, EVIL_COMMON, EVIL_STAGE, "A <b>bold</b> title", "Nobody & <i>Sons</i>"):
        assert name in parsed.text


def test_all_sections_are_there_and_made_up_is_said(parsed: Page) -> None:
    assert "Left out" not in parsed.text
    assert "These animals do not exist" in parsed.text
    for words in ("How did it learn?", "In the right family", "modalit", "Not hand-picked", "silent", "right answer"):
        assert words.lower() in parsed.text.lower()
    assert sum(tag == "audio" for tag, _ in parsed.tags) > 10


def test_the_same_inputs_give_the_same_page(run: Run, page: str, tmp_path) -> None:
    write_report(tmp_path / "again.html", results=run.results, **run.folders, title="A <b>bold</b> title")
    assert (tmp_path / "again.html").read_text() == page


def test_what_was_not_given_is_named(run: Run, tmp_path) -> None:
    alone = tmp_path / "results.json"
    alone.write_bytes(run.results.read_bytes())
    write_report(tmp_path / "r.html", results=alone)
    text = Page((tmp_path / "r.html").read_text()).text
    for words in ("--model", "--embeddings", "--dataset", "results.predictions.parquet does not stand beside"):
        assert words in text
    assert "These animals do not exist" in text  # the results say so themselves


def test_a_benchmark_in_the_official_layout_needs_no_dataset(run: Run, tmp_path) -> None:
    import polars as pl

    from biovita.files import write_json

    content = run.content()
    content["scenarios"] = [row for row in content["scenarios"] if row["split"] == "unseen"]
    write_json(tmp_path / "results.json", content)
    answers = pl.read_parquet(run.results.with_suffix(".predictions.parquet")).filter(pl.col("split") == "unseen")
    answers.write_parquet(tmp_path / "results.predictions.parquet")
    bench = run.folder / "bench" / "unseen"
    write_report(tmp_path / "r.html", results=tmp_path / "results.json", bench_folder=bench)
    text = Page((tmp_path / "r.html").read_text()).text
    assert "drawn at random" in text
    assert "could not be read" in text  # the index names files that are not below this folder


def test_the_report_loads_no_model_code() -> None:
    code = (
        "import sys, biovita.report.html\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'transformers')"
        " or m.startswith(('biovita.bench', 'biovita.train', 'biovita.models'))]\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_writes_the_page_and_says_how_large(run: Run, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from biovita import cli

    out = tmp_path / "r.html"
    assert cli.run(["report", str(run.results), "--out", str(out), "--title", "Mine", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "size_bytes": out.stat().st_size}
    assert "<h1>Mine</h1>" in out.read_text()
