"""`biovita bench compare`: results of one benchmark side by side."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from biovita import config as runs
from biovita.errors import ConfigError
from biovita.log import SETTINGS, emit, say


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Set results files of one benchmark side by side: tables, tests, and the four questions."""

    results: Positional[tuple[Path, ...]]
    """results.json files of `biovita bench score`, or folders of `bench run`; changes are told from the first."""
    out: Path
    """Folder for leaderboard.html, .md, .tex, .csv and .json."""
    paper: bool = False
    """Show the paper's published numbers as reference rows; they are never tested."""


def run_compare(config: Compare) -> None:
    """Run `biovita bench compare`."""
    if not config.results:
        raise ConfigError("bench compare: name the results.json of one run or more")
    from biovita.bench.compare import compare_results
    from biovita.report.leaderboard import markdown, write_leaderboard

    files = [path / "results.json" if path.is_dir() else path for path in config.results]
    comparison = compare_results(files, paper=config.paper)
    written = write_leaderboard(config.out, comparison)
    runs.write_run(config.out, config, bench_sha256=comparison["bench_sha256"])
    if SETTINGS.json:
        emit(comparison)
    else:
        sys.stdout.write(markdown(comparison))
    say(f"{config.out}: {', '.join(path.name for path in written)}")
