"""The check of many files on a cluster, through Ray Data; holds no logic of its own.

Workers need the same folders as the driver: sources to read from, and the dataset folder, into which they copy what
they checked. Ray joins the cluster that RAY_ADDRESS names, or starts on this machine.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from biovita.data.intake import place
from biovita.errors import ConfigError
from biovita.media.check import Limits, Verdict, check_files

try:
    import ray
    import ray.data
except ImportError as error:
    raise ConfigError("--engine ray: Ray is not installed; pip install 'biovita[scale]'") from error

FILES_PER_TASK = 256


def check_on_ray(paths: Iterable[Path], *, out: Path, limits: Limits, workers: int) -> Iterator[Verdict]:
    """Yield the verdict of every path, in order; good files lie under `out` by then.

    Args:
        paths: distinct files.
        out: the dataset folder.
        limits: what a file may be and cost.
        workers: processors to use where Ray is started here; a cluster has its own.
    """
    names = [os.fsencode(path) for path in paths]
    if not names:
        return
    _start(workers)
    table = pa.table({"path": pa.array(names, pa.binary())})
    blocks = max(1, -(-len(names) // FILES_PER_TASK))
    files = ray.data.from_arrow(table).repartition(blocks)
    verdicts = files.map_batches(partial(_judge, out=out, limits=limits), batch_format="pyarrow", batch_size=None)
    for row in verdicts.iter_rows():
        yield Verdict.from_row(json.loads(row["verdict"]))


def _judge(batch: pa.Table, *, out: Path, limits: Limits) -> pa.Table:
    paths = [Path(os.fsdecode(name)) for name in batch["path"].to_pylist()]
    checked = zip(paths, check_files(paths, workers=1, limits=limits), strict=True)
    rows = [json.dumps(place(path, verdict, out).row()) for path, verdict in checked]
    return pa.table({"verdict": pa.array(rows, pa.string())})


def _start(workers: int) -> None:
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tells nobody
    here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it reports every plan and every disabled bar
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **here)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True  # verdicts are matched to paths by their place
    context.enable_progress_bars = False
