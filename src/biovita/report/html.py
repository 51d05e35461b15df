"""One self-contained HTML page: no request leaves it, and it reads without JavaScript. The door to Jinja2."""

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from biovita.files import write_text
from biovita.log import say
from biovita.report import tables
from biovita.report.figures import DIRECTION_STYLE, curves, dot_plots, joint_map, reliability
from biovita.report.gallery import make_gallery
from biovita.report.inputs import DIRECTIONS, RELATIONS, Inputs, read_inputs

TEMPLATES = Path(__file__).parent / "templates"
SEED = 7  # of the gallery and of the map
TIE_RULES = {"against": "count against the model", "order": "keep the order of the candidates"}
MISSING_RULES = {"error": "none", "skip": "queries left out and counted", "zero": "count as zeros"}


def write_report(
    out_html: Path,
    *,
    results: Path,
    model_folder: Path | None = None,
    dataset_folder: Path | None = None,
    bench_folder: Path | None = None,
    embeddings_folder: Path | None = None,
    title: str | None = None,
    seed: int = SEED,
) -> int:
    """Write the report; sections whose input is not given say which one it was.

    Args:
        out_html: the page to write.
        results: results.json of `biovita bench score`; the predictions beside it are used where they exist.
        model_folder: adds training curves and the model's facts.
        dataset_folder: adds pictures and sounds to the gallery, orders, and the data card.
        bench_folder: adds what random wrong answers would be.
        embeddings_folder: adds the map of the joint space.
        title: heading of the page.
        seed: of the gallery's draw and of the map.

    Returns:
        The size of the page in bytes.

    Raises:
        BiovitaError: an input is missing, broken, or of another run.
    """
    inputs = read_inputs(
        results, model=model_folder, dataset=dataset_folder, bench=bench_folder, embeddings=embeddings_folder
    )
    page = render(inputs, title=title or "BioVITA report", seed=seed)
    write_text(out_html, page)
    return len(page.encode())


def environment() -> Environment:
    """Open the templates of all pages: everything escaped, nothing undefined."""
    opened = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    opened.filters["n"] = tables.count_text
    return opened


def render(inputs: Inputs, *, title: str, seed: int) -> str:
    """Compose the page."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "report.js"))
    say("report: reading results")
    content: dict[str, Any] = {
        "title": title,
        "facts": facts(inputs),
        "made_up": inputs.made_up,
        "headline": tables.headline(inputs),
        "beaten": tables.beaten(inputs),
        "tops": tables.tops(inputs),
        "table": tables.scenario_table(inputs),
        "dots": dot_plots(inputs),
        "splits": [(s, tables.split_name(s), tables.SPLIT_MEANS.get(s, "")) for s in inputs.splits],
        "curves": curves(inputs.log) if inputs.log else None,
        "groups": tables.group_tables(inputs),
        "reliability": reliability(inputs),
        "runs": tables.runs(inputs),
        "model": tables.model_facts(inputs),
        "card": tables.data_card(inputs) if inputs.dataset else None,
        "directions": [(d, tables.DIRECTION_NAMES[d]) for d in DIRECTIONS],
        "direction_style": DIRECTION_STYLE,
        "relations": [*((r, tables.RELATION_NAMES[r]) for r in RELATIONS), ("other", tables.OTHER)],
        "seed": seed,
    }
    knows = inputs.predictions is not None and inputs.catalogue is not None
    errors = tables.confusion(inputs) if knows else {}
    content["errors"] = [(split, tables.split_name(split), rows) for split, rows in errors.items()]
    content["relatives"] = tables.relatives(errors)
    say("report: drawing the map and the gallery")
    content["map"] = joint_map(inputs, seed=seed) if inputs.embeddings and inputs.catalogue else None
    content["gallery"] = make_gallery(inputs, seed=seed) if knows else None
    content["missing"] = missing(inputs)
    return (
        environment()
        .get_template("report.html")
        .render(
            **content,
            style=Markup(style),  # noqa: S704 - our own files
            script=Markup(script),  # noqa: S704
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def missing(inputs: Inputs) -> dict[str, str]:
    """Say for each section that may be left out which input it wants."""
    predictions = inputs.path.with_suffix(".predictions.parquet").name
    answers = f"{predictions} does not stand beside the results file" if inputs.predictions is None else ""
    names = "" if inputs.catalogue else "no dataset or benchmark folder was given (--dataset, --bench)"
    both = "; ".join(part for part in (answers, names) if part)
    vectors = "" if inputs.embeddings else "no embeddings folder was given (--embeddings)"
    log = f"{inputs.model} holds no train_log.jsonl" if inputs.model else "no model folder was given (--model)"
    return {
        "curves": log,
        "errors": both or "no answer at species level is wrong",
        "map": "; ".join(part for part in (vectors, names) if part) or "too few vectors of known species",
        "gallery": both,
        "card": "no dataset folder was given (--dataset)",
        "classes": "the results hold no classes at species level",
    }


def facts(inputs: Inputs) -> list[tuple[str, str]]:
    """List which model, benchmark, rules and versions the numbers stand on."""
    run = inputs.results.get("run", {})
    made = datetime.fromtimestamp(inputs.path.stat().st_mtime, UTC)
    rows = [
        ("Scored", f"{made:%Y-%m-%d %H:%M} UTC"),
        ("Model", str(run.get("model", "not named"))),
        ("Weights", str(run.get("weights_sha256", ""))[:12]),
        ("Benchmark", Path(str(run.get("bench", "not named"))).name + " " + str(run.get("bench_sha256", ""))[:12]),
        ("Benchmark seed", str(inputs.bench_manifest.get("seed", ""))),
        ("Ties", TIE_RULES.get(run.get("ties", ""), "")),
        ("Missing vectors", MISSING_RULES.get(run.get("missing", ""), "")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())),
    ]
    return [(name, value) for name, value in rows if value.strip()]
