"""The training report says what the log and run.json say, claims nothing else, and stands alone."""

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from fabricated import EVIL_STAGE
from test_report_page import Page

from biovita.errors import BiovitaError, ModelError
from biovita.files import write_json
from biovita.report.training import before_and_after, wilson, write_training_report

BEFORE = {"a2t": 0.1, "t2a": 0.2, "a2i": 0.05, "i2a": 0.15, "i2t": 0.3, "t2i": 0.25}
AFTER = {"a2t": 0.4, "t2a": 0.1, "a2i": 0.35, "i2a": 0.15, "i2t": 0.6, "t2i": 0.55}
KNOWN = {"chance": dict.fromkeys(BEFORE, 0.125), "n_queries": dict.fromkeys(BEFORE, 20)}


def steps_of(stage: str, n: int = 12) -> list[dict[str, Any]]:
    return [
        {
            **{"stage": stage, "step": step, "epoch": step / 4, "loss": 3 / step, "loss_at": 3 / step, "lambda": 0.0},
            **{"logit_scale": 14.3, "lr": 1e-3, "grad_norm": 2.0, "samples_per_s": 8.0, "wait_share": 0.04},
        }
        for step in range(1, n + 1)
    ]


def log_of(stage: str, **known: Any) -> list[dict[str, Any]]:
    looks = {0: BEFORE, 6: dict.fromkeys(BEFORE, 0.9), 12: AFTER}
    rows = [*steps_of(stage), *({"stage": stage, "step": step, "val": val, **known} for step, val in looks.items())]
    return sorted(rows, key=lambda row: row["step"])


def make_folder(folder: Path, log: list[dict[str, Any]], *, stage: str = "adapt", **run: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    config = {"data": str(folder / "data"), "from_": "tiny", "recipe": {"stage": stage, "rates": {"clip.*": 1e-5}}}
    facts = {"n_steps": 12, "seconds": 75.0, "trained_parameters": ["clip.text_projection.weight", "logit_scale"]}
    write_json(folder / "run.json", {"config": config, "version": "0.1.0", "machine": {"n_cpus": 2}, **facts, **run})
    return folder


def page_of(folder: Path) -> tuple[str, Page]:
    html = write_training_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


def row_of(html: str, name: str) -> list[str]:
    cells = re.search(rf'<th scope="row">{name}</th>(.*?)</tr>', html)
    assert cells
    return re.findall(r"<td>(.*?)</td>", cells[1])


def test_the_table_holds_the_first_and_the_last_look(tmp_path: Path) -> None:
    html, page = page_of(make_folder(tmp_path / "model", log_of("adapt", **KNOWN)))
    assert row_of(html, "sound → name") == ["10.0", "40.0", "+30.0", "12.5", "20"]
    assert row_of(html, "name → sound") == ["20.0", "10.0", "\u221210.0", "12.5", "20"]
    before, after = mean(BEFORE.values()), mean(AFTER.values())
    found = [f"{100 * before:.1f}", f"{100 * after:.1f}", f"+{100 * (after - before):.1f}", "12.5", ""]
    assert row_of(html, "Mean") == found
    assert "The mean was highest after step 6 (90.0)" in " ".join(page.text.split())


def test_where_the_best_weights_were_kept_after_is_the_best_look(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", log_of("adapt"))
    run = json.loads((folder / "run.json").read_text())
    run["config"]["recipe"]["keep"] = "best"
    write_json(folder / "run.json", run)
    html, page = page_of(folder)
    assert row_of(html, "sound → name")[:2] == ["10.0", "90.0"]
    assert "after step 6, the best look, whose weights were kept" in " ".join(page.text.split())


def test_the_page_bears_the_name_that_the_folder_will_have(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / ".mine.0123.part", log_of("adapt"))
    run = json.loads((folder / "run.json").read_text())
    run["config"]["out"] = "models/mine"
    write_json(folder / "run.json", run)
    assert "<h1>mine</h1>" in page_of(folder)[0]


def test_what_the_log_does_not_know_is_not_claimed(tmp_path: Path) -> None:
    log = [row for row in log_of("adapt") if row["step"] != 0]
    html, page = page_of(make_folder(tmp_path / "model", log))
    assert row_of(html, "sound → name") == ["\u2013", "40.0", "\u2013"]
    text = " ".join(page.text.split())
    assert "before it nobody looked" in text
    assert "Chance is not in the log" in text
    assert "How many queries there were is not in the log" in text
    blind, page = page_of(make_folder(tmp_path / "blind", steps_of("adapt")))
    assert "no look at the validation split" in page.text
    assert "nothing here says that it learned" in page.text
    assert "looks-0" not in blind


def test_two_stages_of_one_log_each_have_their_table_and_share_the_curves(tmp_path: Path) -> None:
    log = [*log_of("stage1"), *log_of("stage2", **KNOWN)]
    found = before_and_after(log)
    assert [look["stage"] for look in found] == ["stage2", "stage1"]
    assert [look["has_chance"] for look in found] == [True, False]
    html, page = page_of(make_folder(tmp_path / "model", log, stage="stage2"))
    assert html.count('<th scope="row">Mean</th>') == 2
    assert "24 steps in 2 stages (stage1, stage2)" in page.text
    assert "1 stage1, 2 stage2" in page.text
    assert "Each stage looked at the validation split of its own dataset" in page.text


def test_a_step_that_was_done_again_counts_once_with_its_last_numbers(tmp_path: Path) -> None:
    log = log_of("adapt")
    again = [{**row, "samples_per_s": 2.0} for row in log if row["step"] > 6 and "val" not in row]
    _, page = page_of(make_folder(tmp_path / "model", [*log[:-1], *again, log[-1]]))
    assert "12 steps in one stage" in page.text
    assert "5 (median)" in page.text  # six steps of 8 and six of 2


@pytest.mark.parametrize(
    ("key", "title"), [("grad_norm", "Norm of the gradient"), ("samples_per_s", "Samples a second")]
)
def test_every_logged_number_has_its_panel_and_no_other(tmp_path: Path, key: str, title: str) -> None:
    _, page = page_of(make_folder(tmp_path / "model", log_of("adapt")))
    titles = "Loss, sound and name|Logit scale|Learning rate|Norm of the gradient|Samples a second|waits for data"
    for name in titles.split("|"):
        assert name in page.text
    assert "device's product rate" not in page.text
    without = [{name: value for name, value in row.items() if name != key} for row in log_of("adapt")]
    html, _ = page_of(make_folder(tmp_path / "without", without))
    assert f"<h3>{title}" not in html


def test_made_up_animals_and_smoke_runs_are_labelled(tmp_path: Path) -> None:
    plain = make_folder(tmp_path / "plain", log_of("adapt"))
    _, page = page_of(plain)
    assert "do not exist" not in page.text
    assert "Smoke run" not in page.text
    _, page = page_of(make_folder(tmp_path / "stated", log_of("adapt"), made_up=True))
    assert "adapt learned from animals that do not exist" in page.text
    by_data = make_folder(tmp_path / "by_data", log_of("adapt"), dataset={"media.parquet": "ab"})
    (by_data / "data").mkdir()
    write_json(by_data / "data" / "manifest.json", {"made_up": True, "sha256": {"media.parquet": "ab"}})
    assert "do not exist" in page_of(by_data)[1].text
    write_json(by_data / "data" / "manifest.json", {"made_up": True, "sha256": {"media.parquet": "another"}})
    assert "do not exist" not in page_of(by_data)[1].text
    child = make_folder(tmp_path / "child", log_of("adapt"))
    run = json.loads((child / "run.json").read_text())
    run["config"] |= {"from_": str(tmp_path / "stated"), "smoke": True}
    run["config"]["recipe"]["stage"] = "later"
    write_json(child / "run.json", run)
    _, page = page_of(child)
    assert "adapt learned from animals that do not exist" in page.text
    assert "Smoke run" in page.text
    assert "later" in page.text


def test_the_recipe_and_the_trained_parameters_are_there(tmp_path: Path) -> None:
    html, page = page_of(make_folder(tmp_path / "model", log_of("adapt")))
    assert re.search(r"<code>rates\.clip\.\*</code></th><td>1e-05</td>", html)
    assert "2 tensors trained in the last stage: 1 in clip.text_projection, 1 in logit_scale" in page.text


def test_the_page_stands_alone_and_lets_no_name_break_out(tmp_path: Path) -> None:
    html, page = page_of(make_folder(tmp_path / "<b>model", log_of(EVIL_STAGE), stage=EVIL_STAGE))
    assert not re.search(r"https?:|file:|//[a-z]|@import|<link|<iframe|<base|<object|<embed|<img|<script", html, re.I)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for name in ("href", "xlink:href") for value in page.attributes(name)}
    assert wanted | set(re.findall(r"url\(#([^)]*)\)", html)) <= set(ids)
    assert EVIL_STAGE in page.text
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") for tag, attrs in page.tags if tag == "svg")


def test_the_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", log_of("adapt"))
    assert page_of(folder)[0] == page_of(folder)[0]


def test_a_folder_without_a_log_or_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no train_log\.jsonl"):
        write_training_report(tmp_path)
    with pytest.raises(ModelError, match="holds no step of training"):
        write_training_report(make_folder(tmp_path / "empty", [{"stage": "x", "step": 0, "val": BEFORE}]))
    broken = make_folder(tmp_path / "broken", log_of("adapt"))
    (broken / "run.json").unlink()
    with pytest.raises(BiovitaError, match=r"run\.json: no such file"):
        write_training_report(broken)


def test_the_interval_of_a_share_is_wilsons() -> None:
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0.5, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
