"""Where a stage's numbers go besides train_log.jsonl: TensorBoard, Weights & Biases, MLflow.

All three write into the model folder and reach for no network, unless WANDB_MODE or MLFLOW_TRACKING_URI says otherwise.
The log is the truth and a tracker its copy: a run that goes on after a stop writes its curves anew from the log, so
that every step stands in them once, also after kill -9.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from biovita.errors import ConfigError
from biovita.files import sha256_json
from biovita.log import SETTINGS

Name = Literal["tensorboard", "wandb", "mlflow"]
PROJECT: Final = "biovita"  # of W&B; the experiment of MLflow
FLUSH_S: Final = 5.0
MOST_AT_ONCE: Final = 500  # numbers; MLflow takes 1,000 in one call


def check_installed(names: Sequence[Name]) -> None:
    """Refuse a place whose package is missing, before the run begins.

    Raises:
        ConfigError: it is.
    """
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(missing(name))


class Tracker(Protocol):
    """One place where numbers go."""

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Write numbers down; steps never fall."""
        ...

    def close(self) -> None:
        """Write out what still waits."""
        ...


class Trackers:
    """All the places that were asked for; only the first process of a run may have them.

    Args:
        names: any of tensorboard, wandb, mlflow.
        folder: of the run, with its train_log.jsonl; each place has its own files in it.
        run_name: for people.
        config: what the run was asked to do, `recipe` and all; shown beside the curves.
        done: steps that the run goes on from; they are copied from the log.

    Raises:
        ConfigError: a name is unknown, or its package is not installed.
    """

    def __init__(
        self, names: Sequence[Name], folder: Path, run_name: str, config: dict[str, Any], *, done: int = 0
    ) -> None:
        for name in names:
            if name not in TRACKERS:
                raise ConfigError(f"track: '{name}' is none of {', '.join(TRACKERS)}")
        own_id = sha256_json([str(folder.resolve()), config])[:16]
        self._open = [TRACKERS[name](folder, run_name, _flat(config), own_id) for name in dict.fromkeys(names)]
        if done and self._open:
            for line in steps_of(folder / "train_log.jsonl", config["recipe"]["stage"], done):
                self.log(numbers_of(line), line["step"])

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Write the numbers of a step down, counting steps from 1; 0 is before training."""
        for tracker in self._open:
            tracker.log(numbers, step)

    def close(self) -> None:
        """Write out what still waits."""
        for tracker in self._open:
            tracker.close()


def numbers_of(line: dict[str, Any]) -> dict[str, float]:
    """Take the numbers of a line of the log that make curves."""
    if "val" in line:
        return {f"val/{direction}": top1 for direction, top1 in line["val"].items()}
    return {name: value for name, value in line.items() if isinstance(value, float)}


def steps_of(log_path: Path, stage: str, done: int) -> list[dict[str, Any]]:
    """Read the first steps of a stage, and its looks, in order; of what was done again, the last line."""
    found = {}
    for text in log_path.read_text(encoding="utf-8").split("\n")[:-1]:  # a kill may have torn the last line
        line = json.loads(text)
        if line["stage"] == stage and line["step"] <= done:
            found[line["step"], "val" in line] = line
    return [found[key] for key in sorted(found)]


class TensorBoard:
    """Event files in `tensorboard/`; `tensorboard --logdir FOLDER` shows those of all runs in a folder."""

    def __init__(self, folder: Path, run_name: str, config: dict[str, str], own_id: str) -> None:
        with _wanted("tensorboard"):
            writer = import_module("torch.utils.tensorboard").SummaryWriter
        # purge_step hides what files of before a stop hold from there on: all of it
        self._writer = writer(folder / "tensorboard", purge_step=0, flush_secs=FLUSH_S)
        rows = "\n".join(f"| {name} | {value} |" for name, value in config.items())
        self._writer.add_text("run", f"{run_name}\n\n| name | value |\n|---|---|\n{rows}")

    def log(self, numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """An offline run in `wandb/`, for `wandb sync`; or one on a server, begun anew, with WANDB_MODE=online."""

    def __init__(self, folder: Path, run_name: str, config: dict[str, str], own_id: str) -> None:
        with _wanted("wandb"):
            wandb = import_module("wandb")
        for before in (folder / "wandb").glob("offline-run-*"):
            shutil.rmtree(before)
        self._run = wandb.init(
            project=PROJECT,
            id=own_id,
            name=run_name,
            config=config,
            dir=folder,
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(console="off", silent=SETTINGS.quiet),
        )

    def log(self, numbers: dict[str, float], step: int) -> None:
        self._run.log(numbers, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A database `mlflow.db`, for `mlflow ui --backend-store-uri`; or the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, folder: Path, run_name: str, config: dict[str, str], own_id: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        with _wanted("mlflow"):
            client, self._metric = import_module("mlflow").MlflowClient, import_module("mlflow.entities").Metric
        folder.mkdir(parents=True, exist_ok=True)
        self._client = client(os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{(folder / 'mlflow.db').resolve()}"))
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else self._client.create_experiment(PROJECT)
        for before in self._client.search_runs([experiment], f"tags.biovita = '{own_id}'"):
            self._client.delete_run(before.info.run_id)
        run = self._client.create_run(experiment, run_name=run_name, tags={"biovita": own_id})
        self._id = run.info.run_id
        for name, value in config.items():
            self._client.log_param(self._id, name, value)
        self._waiting: list[Any] = []
        self._written_at = time.monotonic()

    def log(self, numbers: dict[str, float], step: int) -> None:
        now_ms = round(1000 * time.time())
        self._waiting += [self._metric(name, value, now_ms, step) for name, value in numbers.items()]
        if len(self._waiting) >= MOST_AT_ONCE or time.monotonic() - self._written_at >= FLUSH_S:
            self._write()

    def _write(self) -> None:
        self._client.log_batch(self._id, self._waiting)
        self._waiting, self._written_at = [], time.monotonic()

    def close(self) -> None:
        self._write()
        self._client.set_terminated(self._id)


TRACKERS: Final[dict[str, Callable[[Path, str, dict[str, str], str], Tracker]]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


@contextmanager
def _wanted(name: Name) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(missing(name)) from error


def missing(name: Name) -> str:
    """Say what to install."""
    return f"track: {name} is not installed; pip install 'biovita[track]'"


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) else {key: str(value)}
    return flat
