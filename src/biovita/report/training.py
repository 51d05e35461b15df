"""One page about a training run: what it learned, how fast, and from which numbers, read from the model folder."""

from collections.abc import Collection, Iterable, Sequence
from math import nan, sqrt
from pathlib import Path
from statistics import mean, median
from typing import Any

from markupsafe import Markup

from biovita.errors import ModelError
from biovita.files import MANIFEST, read_json, write_text
from biovita.log import duration
from biovita.report import plots, tables
from biovita.report.figures import DIRECTION_STYLE, binned, by_stage, curves, steps_in_a_row
from biovita.report.html import TEMPLATES, environment
from biovita.report.inputs import DIRECTIONS, read_log

LOG, RUN, PAGE = "train_log.jsonl", "run.json", "training.html"
SPEED = (  # key, title, whether it is a share of 1
    ("samples_per_s", "Samples a second", False),
    ("wait_share", "Share of a step that waits for data", True),
    ("peak_share", "Share of the device's product rate", True),
)
Z95 = 1.96
Log = Sequence[dict[str, Any]]


def write_training_report(folder: Path) -> Path:
    """Write `training.html` into a model folder, from its train_log.jsonl and run.json; return its path.

    Raises:
        ModelError: the folder holds no training log, or it is broken.
        BiovitaError: it holds no run.json.
    """
    if not (folder / LOG).is_file():
        raise ModelError(f"{folder}: holds no {LOG}; name a model folder that `biovita train` wrote")
    log, run = read_log(folder / LOG), read_json(folder / RUN)
    if not any("val" not in row for row in log):
        raise ModelError(f"{folder / LOG}: holds no step of training")
    runs = [read_json(model / RUN) for model in reversed(tables.stages(folder))]
    kept_best = {recipe["stage"] for run_ in runs if (recipe := run_["config"]["recipe"]).get("keep") == "best"}
    looks = before_and_after(log, kept_best)
    page = (
        environment()
        .get_template("training.html")
        .render(
            title=Path(run["config"].get("out") or folder.resolve()).name,
            style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
            headline=headline(log, run, looks),
            facts=facts(log, run),
            made_up=[run_["config"]["recipe"]["stage"] for run_ in runs if is_made_up(run_)],
            is_smoke=bool(run["config"].get("smoke")),
            looks=looks,
            curves=curves(log),
            health=panels(log, [("grad_norm", "Norm of the gradient, before clipping", False)]),
            speed=panels(log, SPEED),
            directions=[(d, tables.DIRECTION_NAMES[d]) for d in DIRECTIONS],
            direction_style=DIRECTION_STYLE,
            parts=parts(run["trained_parameters"]),
            trained=run["trained_parameters"],
            recipe=recipe_table(runs),
        )
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def stages_of(log: Log) -> dict[str, list[dict[str, Any]]]:
    """Group the lines of a log by their stage, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in log:
        found.setdefault(str(row.get("stage")), []).append(row)
    return found


def before_and_after(log: Log, kept_best: Collection[str] = ()) -> list[dict[str, Any]]:
    """Lay out the looks at the validation split: a table a stage, a row a direction; the newest stage comes first.

    `before` is the look at step 0, before anything trained; where the log has none, nothing is claimed about it.
    `after` is the last look; for the stages of `kept_best` the one with the highest mean, whose weights they kept.
    """
    looks = {stage: [row for row in rows if row.get("val")] for stage, rows in stages_of(log).items()}
    found = [_look(n, stage, rows, stage in kept_best) for n, (stage, rows) in enumerate(looks.items()) if rows]
    return found[::-1]


def _look(number: int, stage: str, rows: Log, keeps_best: bool) -> dict[str, Any]:
    first = next((row for row in rows if row["step"] == 0), None)
    best = max(rows, key=lambda row: mean(row["val"].values()))
    last = best if keeps_best else rows[-1]
    if mean(best["val"].values()) == mean(last["val"].values()):
        best = last  # as good: nothing to point out
    odds = next((row for row in rows if "chance" in row), {})
    lines = [_line(direction, first, last, odds) for direction in DIRECTIONS if direction in last["val"]]
    groups = [[_interval(line, which) for line in lines] for which in ("before", "after")]
    highest = max(value.high for group in groups for value in group if value)
    alt = f"Right first answers on the validation split before and after {stage}; the table has the numbers"
    labels = [line["name"] for line in lines]
    svg = plots.dots(labels, groups, name=f"looks-{number}", alt=alt, top=min(1.02, 1.08 * highest + 0.02))
    return {
        "stage": stage,
        "lines": lines,
        "mean": {which: _mean(line[which] for line in lines) for which in ("before", "after", "change", "chance")},
        "step": last["step"],
        "best_step": best["step"],
        "best": mean(best["val"].values()),
        "keeps_best": keeps_best,
        "has_before": first is not None,
        "has_chance": any(line["chance"] is not None for line in lines),
        "has_queries": any(line["n_queries"] for line in lines),
        "svg": Markup(svg),  # noqa: S704
    }


def _mean(shares: Iterable[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return mean(known) if known else None


def _line(direction: str, first: dict[str, Any] | None, last: dict[str, Any], odds: dict[str, Any]) -> dict[str, Any]:
    before = first["val"].get(direction) if first else None
    after = last["val"][direction]
    return {
        "direction": direction,
        "name": tables.DIRECTION_NAMES[direction],
        "before": before,
        "after": after,
        "change": None if before is None else after - before,
        "chance": odds.get("chance", {}).get(direction),
        "n_queries": odds.get("n_queries", {}).get(direction),
    }


def _interval(line: dict[str, Any], which: str) -> plots.Interval | None:
    """Make a mark of the plot; its line is Wilson's 95 % interval where the number of queries is known."""
    share, n = line[which], line["n_queries"]
    if share is None:
        return None
    low, high = wilson(share, n) if n else (share, share)
    chance = nan if line["chance"] is None else line["chance"]
    return plots.Interval(share=share, low=low, high=high, chance=chance)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Compute the 95 % interval of a share of n independent trials.

    Source:
        Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def headline(log: Log, run: dict[str, Any], looks: Sequence[dict[str, Any]]) -> list[str]:
    """Say in words what came of it, a sentence a stage, and what cannot be told."""
    names = list(stages_of(log))
    n_steps = sum("val" not in row for row in log)
    start = run["config"].get("from_")
    said = [
        f"{tables.count_text(n_steps)} steps in {'one stage' if len(names) == 1 else f'{len(names)} stages'}"
        f" ({', '.join(names)}){f'; the last began from {start}' if start else ''}."
    ]
    for look in looks:
        after, before, chance = (look["mean"][which] for which in ("after", "before", "chance"))
        if after is None:
            continue
        words = f"{look['stage']}: {tables.share_text(after)} of first answers on the validation split are right"
        words += f", {tables.share_text(before)} before" if before is not None else "; before it nobody looked"
        words += f", chance {tables.share_text(chance)}" if chance is not None else ""
        said.append(words + f" (mean of {len(look['lines'])} directions).")
    if not looks:
        said.append("The validation split was not looked at, so nothing here says that it learned.")
    return said


def facts(log: Log, run: dict[str, Any]) -> list[tuple[str, str]]:
    """List what ran and how fast; the speed is that of the last stage."""
    steps = [row for row in list(stages_of(log).values())[-1] if "val" not in row]
    speed, wait, peak = ([row[key] for row in steps if row.get(key) is not None] for key, *_ in SPEED)
    machine = run.get("machine", {})
    rows = [
        ("Last stage", str(run["config"]["recipe"]["stage"])),
        ("Its steps", tables.count_text(run["n_steps"])),
        ("Its time", duration(run["seconds"])),
        ("Samples a second", f"{median(speed):.3g} (median)" if speed else ""),
        ("Waiting for data", f"{tables.share_text(mean(wait), 1)} of a step" if wait else ""),
        ("Product rate", f"{tables.share_text(mean(peak), 1)} of the device's" if peak else ""),
        ("Version", f"{run.get('version', '')} {(run.get('commit') or '')[:12]}"),
        ("Machine", f"{machine.get('processor', '')}, {machine.get('n_cpus', '?')} CPUs"),
    ]
    return [(name, value) for name, value in rows if value.strip()]


def is_made_up(run: dict[str, Any]) -> bool:
    """Whether a stage learned from made-up animals: as run.json says, or else the dataset, if it is still there."""
    if "made_up" in run:
        return bool(run["made_up"])
    data = Path(run["config"].get("data") or "")
    manifest = read_json(data / MANIFEST) if (data / MANIFEST).is_file() else {}
    return bool(manifest.get("made_up")) and manifest.get("sha256") == run.get("dataset")


def panels(log: Log, wanted: Sequence[tuple[str, str, bool]]) -> list[dict[str, Any]]:
    """Draw numbers over steps, a panel each; those that the log does not have are left out."""
    steps, stages = steps_in_a_row(log)
    drawn = []
    for key, title, percent in wanted:
        points = [(x, row[key]) for x, row in zip(steps, log, strict=True) if row.get(key) is not None]
        if points:
            lines = [binned(part, "ink") for part in by_stage(points, stages)]
            begins = [begin for _, begin in stages]
            name, alt = f"curve-{key.replace('_', '-')}", f"{title} over training steps"
            svg = plots.panel(lines, begins, n_steps=steps[-1], name=name, alt=alt, percent=percent, bottom=0.0)
            drawn.append({"title": title, "svg": Markup(svg)})  # noqa: S704
    return drawn


def parts(names: Sequence[str]) -> list[tuple[str, int]]:
    """Count the parameters that trained by the part of the model they stand in."""
    counts: dict[str, int] = {}
    for name in names:
        part = ".".join(name.split(".")[: 2 if name.startswith("clip.") else 1])
        counts[part] = counts.get(part, 0) + 1
    return sorted(counts.items(), key=lambda part: -part[1])


def recipe_table(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Lay the recipes out side by side: a column a stage whose run.json is there, a row a number."""
    recipes = [_flat(run["config"]["recipe"]) for run in runs]
    names = list(dict.fromkeys(name for recipe in recipes for name in recipe))
    return {
        "stages": [recipe["stage"] for recipe in recipes],
        "rows": [(name, [recipe.get(name, tables.NO_SUCH) for recipe in recipes]) for name in names if name != "stage"],
    }


def _flat(recipe: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in recipe.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple | dict) else str(value)
            flat[f"{prefix}{name}"] = text or tables.NO_SUCH
    return flat
