"""`biovita bench mteb`: a model through MTEB, on its BioVITA tasks fed from a folder."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from biovita import config as runs
from biovita.commands.embed import EXIT_BAD_ITEMS, Using, how_of, load_model
from biovita.errors import BenchError
from biovita.log import SETTINGS, emit, say, warn


@dataclass(frozen=True, kw_only=True)
class Mteb(Using):
    """Run MTEB's BioVITA tasks on a folder, and the scorer on the same vectors."""

    model: Positional[str]
    """Model folder or hub name."""
    bench: Positional[Path]
    """The benchmark folder, ours or in the official layout."""
    out: Path
    """Folder for results/ (in MTEB's format), vectors/ and scorer.json."""
    missing: Literal["error", "zero"] = "error"
    """A file that cannot be used is an error, or zeros as in the reference script."""


def run_mteb(config: Mteb) -> int:
    """Run `biovita bench mteb`; that the two scorers agree is checked, not hoped."""
    from biovita.bench import mteb_bridge as bridge
    from biovita.bench.official import open_bench
    from biovita.bench.run import score_bench
    from biovita.embed.extract import facts_of

    how = how_of(config)
    if how.window != "onset":
        raise BenchError(f"--window {how.window}: MTEB embeds the reference window alone; leave it out")
    bench = open_bench(config.bench)
    bad = bridge.unusable(bench, workers=how.workers or os.cpu_count() or 1)
    for reason in bad.values():
        warn(f"cannot be used: {reason}")
    if bad and config.missing == "error":
        raise BenchError(f"{config.bench}: {len(bad)} files cannot be used; mend them, or choose --missing zero")
    encoder = load_model(config)
    network: Any = getattr(encoder, "model", None)
    n_parameters = sum(tensor.numel() for tensor in network.parameters()) if network is not None else None
    model = bridge.BioVita(encoder, bridge.meta_of(encoder, n_parameters=n_parameters))
    model.leave_out(bad)
    tasks = bridge.tasks_of(bench, left_out=bad)
    theirs = bridge.evaluate(model, tasks, config.out, batch_size=how.batch_size or bridge.BATCH_SIZE)
    bridge.write_kept(model, bench, config.out / "vectors", facts_of(encoder, how))
    ours = score_bench(
        config.bench, config.out / "vectors", out=config.out / "scorer.json", ties="order", missing="zero"
    )
    runs.write_run(
        config.out, config, bench_sha256=bench.sha256, weights_sha256=encoder.weights_sha256, n_refused=len(bad)
    )
    unequal = bridge.differences(theirs, ours)
    if SETTINGS.json:
        emit({"out": str(config.out), "mteb": theirs, "unequal": unequal, "n_refused": len(bad)})
    else:
        show(theirs, ours)
    say(f"{config.out}: {len(theirs)} scenarios through MTEB")
    if unequal:
        raise BenchError(f"{config.out}: MTEB and the scorer differ in {', '.join(unequal)}; please report this")
    return EXIT_BAD_ITEMS if bad else 0


def show(theirs: dict[str, dict[str, Any]], ours: dict[str, Any]) -> None:
    """Print top-k of both scorers, a line a scenario."""
    keys = list(next(iter(theirs.values())))
    print(f"{'percent':<20}{'queries':>8}" + "".join(f"{key + ' MTEB':>13}{'ours':>8}" for key in keys))
    for row in ours["scenarios"]:
        name = f"{row['split']}/{row['level']}/{row['direction']}"
        cells = "".join(f"{100 * theirs[name][key]:>13.2f}{100 * row[key]:>8.2f}" for key in keys)
        print(f"{name:<20}{row['n_queries']:>8}{cells}")
