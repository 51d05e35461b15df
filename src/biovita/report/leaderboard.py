"""A comparison in four shapes: one self-contained HTML page, Markdown, LaTeX and CSV; shares in percent, but in CSV."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from biovita.files import write_json, write_text
from biovita.report import tables
from biovita.report.html import TEMPLATES, TIE_RULES, environment
from biovita.report.inputs import DIRECTIONS
from biovita.report.plots import N_HUES

NAME = "leaderboard"
MEAN = "mean"
MARKS: Final = ((0.01, "**"), (0.05, "*"))  # below which p, after the correction
LEAST = 30  # queries that a class must have in some direction to be drawn
RADIUS, CENTRE = 76.0, (160.0, 104.0)  # of a radar, in units of its view box
ANCHORS: Final = ("middle", "start", "start", "middle", "end", "end")  # of the spokes' names, from the top clockwise
CSV_COLUMNS: Final = (
    *("name", "is_reference", "split", "level", "direction", "n_queries", "n_skipped"),
    *("share", "low", "high", "chance", "is_best", "difference_from_best", "p", "p_holm", "source"),
)
TEX_SPECIAL: Final = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


def write_leaderboard(folder: Path, comparison: dict[str, Any]) -> list[Path]:
    """Write `leaderboard.html`, `.md`, `.tex`, `.csv` and `.json`; return their paths.

    Args:
        folder: where they go; files of those names are replaced.
        comparison: what `biovita bench compare` found.
    """
    shapes = {".html": html, ".md": markdown, ".tex": latex, ".csv": csv_text}
    for suffix, shape in shapes.items():
        write_text(folder / f"{NAME}{suffix}", shape(comparison))
    write_json(folder / f"{NAME}.json", comparison)
    return [folder / f"{NAME}{suffix}" for suffix in (*shapes, ".json")]


def html(comparison: dict[str, Any]) -> str:
    """Compose the page: the four questions, classes, and what the numbers stand on."""
    named = [change for change in comparison["changes"] if change["what"] == "names"]
    return (
        environment()
        .get_template("leaderboard.html")
        .render(
            style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
            headline=headline(comparison),
            facts=facts(comparison),
            made_up=comparison["made_up"],
            models=comparison["models"],
            blocks=[block(table, comparison["tops"]) for table in comparison["tables"]],
            tops=[top.removeprefix("top") for top in comparison["tops"][:2]],
            reference=comparison["reference"],
            ablation=[reference_row(row, [*DIRECTIONS, MEAN], comparison["tops"]) for row in comparison["ablation"]],
            directions=[(d, tables.DIRECTION_NAMES[d]) for d in DIRECTIONS],
            models_changed=[change_block(change) for change in comparison["changes"] if change["what"] == "model"],
            names_changed=[change_block(change) for change in named],
            unseen=seen_and_unseen(comparison),
            radars=[radar(part, comparison) for part in comparison["classes"] if part["most_queries"] >= LEAST],
            small=[part for part in comparison["classes"] if part["most_queries"] < LEAST],
            least=LEAST,
            legend=[(model["name"], n) for n, model in enumerate(comparison["models"][:N_HUES])],
            n_models=len(comparison["models"]),
        )
    )


def headline(comparison: dict[str, Any]) -> list[str]:
    """Say in words who leads, a sentence a split."""
    said = []
    for table in comparison["tables"]:
        if table["level"] != "species" or len(table["rows"]) < 2:
            continue
        top = comparison["tops"][0]
        having = [row for row in table["rows"] if MEAN in row["cells"]]
        if len(having) < 2:
            continue
        first, second, *_ = sorted(having, key=lambda row: -row["cells"][MEAN][top])
        words = f"{tables.split_name(table['split'])}: {first['name']} leads with {share(first, top)}"
        p = second["cells"][MEAN].get("p_holm")
        beside = f"{second['name']} ({share(second, top)})"
        if p is None:
            words += f", before {beside}; not tested"
        elif p < MARKS[-1][0]:
            words += f", before {beside}; more than luck ({p_text(p)})"
        else:
            words += f", but {beside} may be as good ({p_text(p)})"
        said.append(words + f"; chance is {tables.share_text(table['chance'][MEAN][top])}.")
    return said


def share(row: dict[str, Any], top: str) -> str:
    return tables.share_text(row["cells"][MEAN][top], 1)


def p_text(p: float) -> str:
    """Write a p value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def facts(comparison: dict[str, Any]) -> list[tuple[str, str]]:
    """List what the numbers stand on."""
    return [
        ("Results", str(len(comparison["models"]))),
        ("Benchmark", f"{Path(comparison['bench']).name} {comparison['bench_sha256'][:12]}"),
        ("Ties", TIE_RULES[comparison["ties"]]),
        ("Reference rows", "the paper's" if comparison["reference"] else "none"),
    ]


def title(table: dict[str, Any]) -> str:
    """Name a table by its species and level."""
    return f"{tables.split_name(table['split'])}, {table['level']} level"


def mark(cell: dict[str, Any]) -> str:
    """Mark a cell whose difference is more than luck."""
    p = cell.get("p_holm")
    return next((sign for limit, sign in MARKS if p is not None and p < limit), "")


def block(table: dict[str, Any], tops: Sequence[str]) -> dict[str, Any]:
    """Lay one table out as text: a row a model, two shares a cell."""
    columns = [*table["directions"], MEAN]
    top, *more = tops
    hottest = max((cell[top] for row in table["rows"] for cell in row["cells"].values()), default=0.0)
    return {
        "split": table["split"],
        "level": table["level"],
        "title": title(table),
        "columns": columns,
        "rows": [
            {"name": row["name"], "cells": [text_cell(row["cells"].get(c), top, more[:1], hottest) for c in columns]}
            for row in table["rows"]
        ],
        "chance": [f"{100 * table['chance'][column][top]:.1f}" for column in columns],
        "reference": [reference_row(row, columns, tops) for row in table["reference"]],
    }


def reference_row(row: dict[str, Any], columns: Sequence[str], tops: Sequence[str]) -> dict[str, Any]:
    """Lay a published row out as text."""
    cells = [text_cell(row["cells"].get(column), tops[0], tops[1:2], 1.0) for column in columns]
    return {"name": row["name"], "source": row["source"], "cells": cells}


def text_cell(cell: dict[str, Any] | None, top: str, more: Sequence[str], hottest: float) -> dict[str, Any] | None:
    """Write one cell; None where there is nothing."""
    if cell is None or top not in cell:
        return None
    ends = cell.get("ci95")
    return {
        "share": f"{100 * cell[top]:.1f}",
        "second": next((f"{100 * cell[name]:.1f}" for name in more if name in cell), None),
        "interval": f"{100 * ends[0]:.1f}\u2013{100 * ends[1]:.1f}" if ends else None,
        "mark": mark(cell),
        "p": p_text(cell["p_holm"]) if "p_holm" in cell else None,
        "is_best": cell.get("is_best", False),
        "n_skipped": cell.get("n_skipped") or None,
        "heat": round(cell[top] / hottest, 3) if hottest else 0.0,
    }


def change_block(change: dict[str, Any]) -> dict[str, Any]:
    """Lay out how a model differs from its base, in points."""
    return {
        "name": change["name"],
        "base": change["base"],
        "rows": [
            {
                "title": title(table),
                "cells": [_change(table["cells"].get(column)) for column in (*DIRECTIONS, MEAN)],
            }
            for table in change["tables"]
        ],
    }


def _change(cell: dict[str, Any] | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    points = f"{100 * cell['difference']:+.1f}".replace("-", "\u2212")
    return {"points": points, "mark": mark(cell), "p": p_text(cell["p_holm"])}


def seen_and_unseen(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Set the means of seen and unseen species side by side at each level; empty where the results lack one of them."""
    top = comparison["tops"][0]
    found = {(table["split"], table["level"]): table for table in comparison["tables"]}
    rows = []
    for level in dict.fromkeys(table["level"] for table in comparison["tables"]):
        both = [found.get((split, level)) for split in ("seen", "unseen")]
        if both[0] is None or both[1] is None:
            continue
        for one, other in zip(both[0]["rows"], both[1]["rows"], strict=True):
            if MEAN not in one["cells"] or MEAN not in other["cells"]:
                continue
            seen, unseen = one["cells"][MEAN][top], other["cells"][MEAN][top]
            chances = [table["chance"][MEAN][top] for table in both if table]
            rows.append(
                {
                    "level": level,
                    "name": one["name"],
                    "seen": f"{100 * seen:.1f}",
                    "unseen": f"{100 * unseen:.1f}",
                    "points": f"{100 * (unseen - seen):+.1f}".replace("-", "\u2212"),
                    "times": [tables.times_text(s, c) for s, c in zip((seen, unseen), chances, strict=True)],
                }
            )
    return rows


def radar(part: dict[str, Any], comparison: dict[str, Any]) -> dict[str, Any]:
    """Draw one class: six spokes, a line a model; the outer ring is the next tenth above the highest share."""
    number = {model["name"]: n for n, model in enumerate(comparison["models"][:N_HUES])}
    lines = [(row["shares"], f"c{number[row['name']]}") for row in part["rows"] if row["name"] in number]
    lines += [(part["reference"], "ink")] if part["reference"] else []
    highest = max((value for shares, _ in lines for value in shares.values()), default=0.0)
    end = max(0.1, math.ceil(10 * highest - 1e-9) / 10)
    return {
        "title": f"{part['class']}, {part['split']}",
        "n": tables.count_text(part["most_queries"]),
        "end": f"{100 * end:.0f}",
        "rings": [_polygon([fraction] * len(DIRECTIONS)) for fraction in (0.5, 1.0)],
        "spokes": [
            {"end": _place(n, 1.0), "label": _place(n, 1.12), "anchor": anchor, "name": tables.DIRECTION_NAMES[d]}
            for n, (d, anchor) in enumerate(zip(DIRECTIONS, ANCHORS, strict=True))
        ],
        "lines": [
            (_polygon([shares.get(d, 0.0) / end for d in DIRECTIONS]), colour, colour == "ink")
            for shares, colour in lines
        ],
        "has_reference": bool(part["reference"]),
    }


def _place(n: int, radius: float) -> tuple[float, float]:
    angle = 2 * math.pi * n / len(DIRECTIONS) - math.pi / 2
    return (
        round(CENTRE[0] + RADIUS * radius * math.cos(angle), 1),
        round(CENTRE[1] + RADIUS * radius * math.sin(angle), 1),
    )


def _polygon(radii: Sequence[float]) -> str:
    return " ".join(f"{x},{y}" for x, y in (_place(n, radius) for n, radius in enumerate(radii)))


def markdown(comparison: dict[str, Any]) -> str:
    """Write every table as Markdown."""
    lines = ["# Leaderboard", "", caption(comparison, "**bold**"), ""]
    for part in (block(table, comparison["tops"]) for table in comparison["tables"]):
        lines += [f"## {part['title']}", ""]
        lines += ["| model | " + " | ".join(part["columns"]) + " |", "|---|" + "---:|" * len(part["columns"])]
        for row in (*part["rows"], *part["reference"]):
            cells = [_plain_cell(cell, "**{}**", "{}") for cell in row["cells"]]
            name = f"*{row['name']} (paper)*" if "source" in row else row["name"]
            lines.append("| " + " | ".join([name.replace("|", "\\|"), *cells]) + " |")
        lines += ["| chance | " + " | ".join(part["chance"]) + " |", ""]
    return "\n".join(lines)


def latex(comparison: dict[str, Any]) -> str:
    """Write every table as LaTeX (package booktabs)."""
    lines = [f"% {caption(comparison, 'bold')}"]
    for part in (block(table, comparison["tops"]) for table in comparison["tables"]):
        heads = [
            column if column == MEAN else f"{column[0].upper()}$\\to${column[2].upper()}" for column in part["columns"]
        ]
        lines += ["", f"% {part['title']}", "\\begin{tabular}{l" + "r" * len(heads) + "}", "\\toprule"]
        lines += [" & ".join(["", *heads]) + " \\\\", "\\midrule"]
        for n, row in enumerate((*part["rows"], *part["reference"])):
            if n == len(part["rows"]):
                lines.append("\\midrule")
            cells = [_plain_cell(cell, "\\textbf{{{}}}", "$^{{{}}}$") for cell in row["cells"]]
            name = row["name"].translate(TEX_SPECIAL)
            lines.append(" & ".join([f"\\emph{{{name}}} (paper)" if "source" in row else name, *cells]) + " \\\\")
        lines += ["\\midrule", " & ".join(["chance", *part["chance"]]) + " \\\\", "\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def caption(comparison: dict[str, Any], best: str) -> str:
    """Say what a cell holds."""
    shown = " / ".join(f"top-{top[3:]}" for top in comparison["tops"][:2])
    text = (
        f"{shown} in percent; the best of a column is {best}. * and **: the first number differs from the best at 5 and"
        " 1 %, by a sign-flip test over taxa, corrected by Holm in each table."
    )
    if comparison["reference"]:
        text += " Rows marked (paper) are published numbers on other pools, not tested: "
        text += comparison["reference"]["source"] + "."
    if comparison["made_up"]:
        text += " The biosphere is made up; these numbers say nothing of real animals."
    return text


def _plain_cell(cell: dict[str, Any] | None, bold: str, raised: str) -> str:
    if cell is None:
        return "--"
    share = bold.format(cell["share"]) if cell["is_best"] else cell["share"]
    share += raised.format(cell["mark"]) if cell["mark"] else ""
    return f"{share} / {cell['second']}" if cell["second"] else share


def csv_text(comparison: dict[str, Any]) -> str:
    """Write one line a cell; shares of 1."""
    top = comparison["tops"][0]
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in comparison["tables"]:
        for row in (*table["rows"], *table["reference"]):
            for direction, cell in row["cells"].items():
                if top not in cell:
                    continue
                low, high = cell.get("ci95") or (None, None)
                writer.writerow(
                    {
                        "name": row["name"],
                        "is_reference": "source" in row,
                        "split": table["split"],
                        "level": table["level"],
                        "direction": direction,
                        "n_queries": cell.get("n_queries"),
                        "n_skipped": cell.get("n_skipped"),
                        "share": cell[top],
                        "low": low,
                        "high": high,
                        "chance": table["chance"].get(direction, {}).get(top) if "source" not in row else None,
                        "is_best": cell.get("is_best", False),
                        "difference_from_best": cell.get("difference"),
                        "p": cell.get("p"),
                        "p_holm": cell.get("p_holm"),
                        "source": row.get("source"),
                    }
                )
    return file.getvalue()
