"""The table of commands: where each lives and how words become a call; nothing heavy loads until one runs."""

from dataclasses import dataclass
from importlib import import_module

from biovita.errors import BiovitaError, ConfigError


@dataclass(frozen=True, kw_only=True)
class Command:
    """Where a command lives: module in `biovita.commands`, its dataclass, its function."""

    module: str
    schema: str
    function: str
    summary: str


def _row(module: str, schema: str, function: str, summary: str) -> Command:
    return Command(module=module, schema=schema, function=function, summary=summary)


COMMANDS = {
    "demo": _row("demo", "Demo", "run_demo", "The whole of BioVITA on a made-up biosphere, offline, in minutes."),
    "doctor": _row("doctor", "Doctor", "run_doctor", "Say what is installed, what is missing and what to do."),
    "world make": _row("world", "Make", "run_make", "Make a biosphere: photos, calls, names and traits. Made up."),
    "data records": _row("data", "Records", "run_records", "Turn a public source or a dump into a table of records."),
    "data build": _row("data", "Build", "run_build", "Build a dataset folder from local files or public sources."),
    "data check": _row("dataset", "Check", "run_check", "Check files and folders; one verdict for every entry."),
    "data verify": _row(
        "dataset", "Verify", "run_verify", "Prove a dataset folder: hashes, files, no leak between splits."
    ),
    "data card": _row("dataset", "Card", "run_card", "Write a dataset's card again from its tables."),
    "data shard": _row("dataset", "Shard", "run_shard", "Write WebDataset tar shards of a dataset."),
    "data export": _row("dataset", "Export", "run_export", "Write a dataset for Hugging Face, or as Camtrap DP."),
    "train": _row("train", "Train", "run_train", "Run one training stage from a run file."),
    "model convert": _row(
        "model", "Convert", "run_convert", "Convert published weights to a model folder, or a model to their layout."
    ),
    "model export": _row("model_export", "Export", "run_export", "Write a model's towers as ONNX files, for CPUs."),
    "model calibrate": _row(
        "model_calibrate", "Calibrate", "run_calibrate", "Make a model's scores probabilities, from validation files."
    ),
    "model push": _row("model", "Push", "run_push", "Upload a model folder to the Hugging Face hub."),
    "embed": _row("embed", "Embed", "run_embed", "Turn files, folders, datasets or names into vectors."),
    "bench make": _row("bench", "Make", "run_make", "Build all 36 retrieval scenarios from a dataset folder."),
    "bench embed": _row("bench", "Embed", "run_embed", "Embed every item of a benchmark folder with a model."),
    "bench score": _row("bench", "Score", "run_score", "Score stored vectors, anyone's, on a benchmark folder."),
    "bench run": _row(
        "bench_run", "Run", "run_run", "Embed, score and report in one command, for any model and benchmark."
    ),
    "bench compare": _row("bench_compare", "Compare", "run_compare", "Set results of one benchmark side by side."),
    "bench traits": _row("bench_traits", "Traits", "run_traits", "Probe the 34 traits from stored vectors, by F1."),
    "bench mteb": _row(
        "bench_mteb", "Mteb", "run_mteb", "Run a model through MTEB on a benchmark folder, and compare scorers."
    ),
    "report": _row("report", "Report", "run_report", "Write one self-contained HTML report of a run."),
    "identify": _row("identify", "Identify", "run_identify", "Name the animal in photos and recordings."),
    "index add": _row("index_add", "Add", "run_add", "Add recordings and pictures to an archive, to search them."),
    "index status": _row(
        "index", "Status", "run_status", "Say what is in an archive, and how well its index finds it."
    ),
    "index rebuild": _row("index", "Rebuild", "run_rebuild", "Put an archive in order and make its index anew."),
    "index remove": _row("index", "Remove", "run_remove", "Take rows out of an archive; the files stay."),
    "search": _row("search", "Search", "run_search", "Find in an archive by words, a sound, a picture, or a mix."),
    "label add": _row("label", "Label", "run_label", "Say of hits whether a name fits: yes, no or unsure."),
    "label export": _row("label", "Export", "run_export", "Write an archive's labels as a table."),
    "label import": _row("label", "Import", "run_import", "Add the labels of a table to an archive."),
    "label next": _row("label", "Next", "run_next", "Show which hits to label next for a name."),
    "label find": _row("label", "Find", "run_find", "Rank an archive by a probe learned from labels."),
    "serve": _row(
        "serve", "Serve", "run_serve", "Serve the page: identify, search, review, results; and its JSON API."
    ),
}


def find(words: list[str]) -> tuple[str, list[str]]:
    """Split typed words into the command's name and the rest.

    Raises:
        BiovitaError: no such command; the message names the nearest ones.
    """
    for n in (2, 1):
        name = " ".join(words[:n])
        if name in COMMANDS:
            return name, words[n:]
    family = [name for name in COMMANDS if name.split()[0] == words[0]]
    if family:
        raise BiovitaError(f"'{' '.join(words[:2])}' is not a command; there are: {', '.join(family)}")
    from difflib import get_close_matches

    near = get_close_matches(words[0], {name.split()[0] for name in COMMANDS}, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "`biovita --help` lists them"
    raise BiovitaError(f"'{words[0]}' is not a command; {hint}")


def call(words: list[str]) -> int:
    """Run one command, given as words without common flags, and return its exit code."""
    name, rest = find(words)
    command = COMMANDS[name]
    module = import_module(f"biovita.commands.{command.module}")
    config = import_module("biovita.config").parse(
        getattr(module, command.schema), rest, prog=f"biovita {name}", description=command.summary
    )
    if getattr(config, "seed", 0) < 0:
        raise ConfigError(f"--seed {config.seed}: give a whole number from 0")
    return getattr(module, command.function)(config) or 0
