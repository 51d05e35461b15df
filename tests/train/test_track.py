"""What trackers show is what was logged: every step once, also after a stop, and none of it leaves the machine."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from biovita.errors import ConfigError
from biovita.train.track import Trackers, numbers_of, steps_of

CONFIG = {"data": "my_animals", "recipe": {"stage": "stage1", "learning_rate": 1e-4}}

Curves = dict[str, list[tuple[int, float]]]


def line_of(step: int, *, of: float) -> list[dict[str, Any]]:
    look = [{"stage": "stage1", "step": step, "val": {"a2t": 0.1 * step}}] if step % 2 == 0 else []
    return [{"stage": "stage1", "step": step, "loss": of / (step + 1)}, *look]


def write(name: Any, folder: Path, steps: range, *, done: int = 0, of: float = 1.0) -> None:
    """Log some steps to the log and to a tracker, as a stage does."""
    folder.mkdir(exist_ok=True)
    trackers = Trackers([name], folder, "my_model", CONFIG, done=done)
    with (folder / "train_log.jsonl").open("a") as log:
        for step in steps:
            for line in line_of(step, of=of):
                log.write(json.dumps(line) + "\n")
                trackers.log(numbers_of(line), step)
    trackers.close()


def expected(n: int) -> Curves:
    return {
        "loss": [(step, pytest.approx(1 / (step + 1))) for step in range(n)],
        "val/a2t": [(step, pytest.approx(0.1 * step)) for step in range(0, n, 2)],
    }


def events(folder: Path) -> tuple[Curves, str]:
    """Read TensorBoard's files as TensorBoard does: the curves, and the text beside them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = found.Tags()
    text = [found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags["tensors"]]
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags["scalars"]}, "".join(text)


def mlflow_run(folder: Path) -> tuple[Curves, dict[str, str]]:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("biovita").experiment_id])
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: [(m.step, m.value) for m in points] for name, points in history.items()}, run.data.params


def test_tensorboard_shows_what_was_logged(tmp_path: Path) -> None:
    write("tensorboard", tmp_path, range(6))
    curves, text = events(tmp_path)
    assert curves == expected(6)
    assert "my_model" in text
    assert "| recipe.learning_rate | 0.0001 |" in text


def test_a_run_that_goes_on_replaces_the_steps_after_its_checkpoint(tmp_path: Path) -> None:
    write("tensorboard", tmp_path, range(6), of=2.0)
    write("tensorboard", tmp_path, range(3, 9), done=2)
    curves, _ = events(tmp_path)
    losses = [(step, pytest.approx((2.0 if step <= 2 else 1.0) / (step + 1))) for step in range(9)]
    assert curves == {"loss": losses, "val/a2t": expected(9)["val/a2t"]}


def test_a_curve_is_whole_also_where_the_tracker_was_killed_before_it_wrote(tmp_path: Path) -> None:
    write("tensorboard", tmp_path, range(6))
    for file in (tmp_path / "tensorboard").iterdir():
        file.unlink()
    write("tensorboard", tmp_path, range(3, 9), done=2)
    assert events(tmp_path)[0] == expected(9)


def test_of_a_log_of_several_stages_only_the_own_steps_are_copied_each_once(tmp_path: Path) -> None:
    lines = [{"stage": "stage0", "step": step, "loss": 9.0} for step in (1, 2)]
    lines += [line for step in range(5) for line in line_of(step, of=2.0)]
    lines += [line for step in (3, 4) for line in line_of(step, of=1.0)]
    path = tmp_path / "train_log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "stage1", "st')
    found = steps_of(path, "stage1", 3)
    steps, looks = ([line["step"] for line in found if ("val" in line) == is_look] for is_look in (False, True))
    assert (steps, looks) == ([0, 1, 2, 3], [0, 2])
    assert found[-1]["loss"] == 1 / 4


def test_numbers_lie_on_the_disk_when_a_run_is_closed_and_may_be_read_before(tmp_path: Path) -> None:
    trackers = Trackers(["tensorboard"], tmp_path, "my_model", CONFIG)
    trackers.log({"loss": 1.0}, 1)
    assert list((tmp_path / "tensorboard").iterdir())
    trackers.close()
    assert events(tmp_path)[0] == {"loss": [(1, 1.0)]}


def test_no_tracker_leaves_nothing(tmp_path: Path) -> None:
    trackers = Trackers([], tmp_path, "my_model", CONFIG)
    trackers.log({"loss": 1.0}, 1)
    trackers.close()
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tensorbored' is none of tensorboard, wandb, mlflow"):
        write("tensorbored", tmp_path, range(1))


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_missing_package_is_an_error_that_says_what_to_install(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"track: {name} is not installed; pip install 'biovita\[track\]'"):
        write(name, tmp_path, range(1))


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("mlflow"), reason="MLflow is not installed")
def test_mlflow_shows_every_step_once_also_after_a_stop(tmp_path: Path) -> None:
    write("mlflow", tmp_path, range(6))
    write("mlflow", tmp_path, range(3, 9), done=2)
    curves, params = mlflow_run(tmp_path)
    assert curves == expected(9)
    assert params["recipe.learning_rate"] == "0.0001"


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("wandb"), reason="W&B is not installed")
def test_weights_and_biases_stays_offline_and_keeps_its_run_after_a_stop(tmp_path: Path) -> None:
    write("wandb", tmp_path, range(6))
    write("wandb", tmp_path, range(3, 9), done=2)
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 1  # the whole curve, to be synced once
