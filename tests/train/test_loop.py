"""One stage: what is frozen stays, what trains learns, what breaks stops, and the same seed is the same run."""

import json
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import prompts_of

from biovita.commands.train import Train
from biovita.config import parse
from biovita.errors import TrainError
from biovita.train.batches import Batch
from biovita.train.checkpoint import Checkpoints
from biovita.train.features import Features
from biovita.train.gate import Keeper
from biovita.train.loop import choose_trained, make_optimizer, set_modes, train_stage
from biovita.train.loss import Targets, contrastive
from biovita.train.recipe import Gate, Recipe
from biovita.train.schedule import weights_at
from biovita.train.step import Step, total_loss
from biovita.train.trainee import Trainee
from biovita.train.validate import look, odds

COUNTS = [(3, 3), (2, 3), (3, 2), (2, 2)]
AUDIO = ("audio_model.*", "audio_projection.*")
CLIP = ("clip.*", "logit_scale")
ALL_LOSSES = {"audio_text": 1.0, "audio_image": 0.5, "image_text": 0.5}


def recipe_of(**fields: Any) -> Recipe:
    defaults = {"epochs": 1, "batch_size": 8, "min_per_species": 2, "max_per_species": 4, "learning_rate": 1e-3}
    return Recipe(**{**defaults, **fields})


def run(encoder: Any, features: Features, recipe: Recipe, folder: Path, **more: Any) -> dict[str, Any]:
    torch.manual_seed(recipe.seed)
    more.setdefault("checkpoints", Checkpoints(folder / "checkpoints", key="a run"))
    return train_stage(encoder, features, prompts_of(features), recipe, log_path=folder / "log.jsonl", **more)


@pytest.fixture
def losses(step_of: Callable[..., Step], inputs_of: Callable[..., Any]) -> Callable[..., dict[str, torch.Tensor]]:
    """Compute the losses of a batch."""

    def compute(encoder: Any, features: Features, batch: Batch, recipe: Recipe) -> dict[str, torch.Tensor]:
        step = step_of(encoder, features, recipe)
        return step.losses(step.embed(inputs_of(encoder, features, batch, recipe)), batch)

    return compute


def state_of(encoder: Any) -> dict[str, torch.Tensor]:
    """Parameters and buffers, copied."""
    return {key: tensor.detach().clone() for key, tensor in encoder.model.state_dict().items()}


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("trained", [AUDIO, CLIP, ("clip.text_model.*",), ("logit_scale",)], ids=lambda names: names[0])
def test_what_is_frozen_stays_bit_for_bit_also_the_batch_norm(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path, trained: tuple[str, ...]
) -> None:
    encoder = new_encoder()
    before = state_of(encoder)
    facts = run(encoder, make_features(COUNTS), recipe_of(**ALL_LOSSES, trained=trained), tmp_path)
    changed = {key for key, tensor in state_of(encoder).items() if not torch.equal(tensor, before[key])}
    buffers = {name for name, _ in encoder.model.named_buffers()}
    assert changed - buffers
    assert all(any(fnmatchcase(name, pattern) for pattern in trained) for name in changed - buffers)
    assert changed - buffers <= set(facts["trained_parameters"])
    moved = {name for name in changed & buffers if "batch_norm" in name}
    assert bool(moved) == (trained == AUDIO)


def test_a_frozen_logit_scale_stays_also_above_the_limit(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    encoder = new_encoder()
    before = encoder.model.logit_scale.item()
    run(encoder, make_features(COUNTS), recipe_of(trained=("audio_projection.*",), max_logit_scale=5.0), tmp_path)
    assert encoder.model.logit_scale.item() == before


def test_a_trained_logit_scale_stays_within_its_limit(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    encoder = new_encoder()
    run(encoder, make_features(COUNTS), recipe_of(trained=("logit_scale",), max_logit_scale=5.0), tmp_path)
    assert encoder.model.logit_scale.exp().item() == pytest.approx(5.0)


@pytest.mark.parametrize("pattern", ["audio_model.layers.11.*", "clip", "audio_modle.*", "audio_adapter.x", ""])
def test_a_pattern_that_matches_nothing_is_an_error(new_encoder: Callable[..., Any], pattern: str) -> None:
    with pytest.raises(TrainError, match=f"trained: '{pattern}' matches no parameter".replace("*", r"\*")):
        choose_trained(new_encoder().model, ("clip.*", pattern))


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("audio_modle.*", "did you mean 'audio_model.*'?"),
        ("clip.visual.projection.*", "did you mean 'clip.visual_projection.*'?"),
        ("logitscale", "did you mean 'logit_scale'?"),
        ("", "they are named like logit_scale"),
    ],
)
def test_a_pattern_that_matches_nothing_is_told_what_was_meant(
    new_encoder: Callable[..., Any], pattern: str, meant: str
) -> None:
    with pytest.raises(TrainError, match=re.escape(meant)):
        choose_trained(new_encoder().model, [pattern])


def test_a_stage_that_trains_nothing_is_an_error(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    with pytest.raises(TrainError, match="trained"):
        run(new_encoder(), make_features(COUNTS), recipe_of(trained=()), tmp_path)


def shipped() -> list[Path]:
    paths = Path(str(files("biovita"))).glob("runs/**/*.toml")
    return sorted(path for path in paths if "[recipe]" in path.read_text())


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_the_shipped_run_files_name_real_parameters(new_encoder: Callable[..., Any], path: Path) -> None:
    recipe = parse(Train, [str(path), "--data", "d", "--out", "o"], prog="biovita train").recipe
    chosen = choose_trained(new_encoder().model, recipe.trained)  # refuses a pattern that matches nothing
    towers = {name.split(".")[0] + "." + name.split(".")[1] for name in chosen if "." in name}
    if "stage1" in path.stem:
        assert not [name for name in chosen if name.startswith("clip.")]
    if "stage2" in path.stem:
        assert "clip.text_model" in towers
        assert "clip.vision_model" not in towers


def test_a_tower_is_in_training_mode_if_and_only_if_it_trains(new_encoder: Callable[..., Any]) -> None:
    model = new_encoder().model
    choose_trained(model, ("audio_projection.*", "clip.text_model.encoder.layers.1.*"))
    model.train()
    set_modes(model, freeze_batch_norm=False)
    assert model.audio_projection.training
    assert model.clip.text_model.training
    assert not any(module.training for module in model.audio_model.modules())
    assert not any(module.training for module in model.clip.vision_model.modules())


def test_weight_decay_spares_norms_biases_and_the_logit_scale(new_encoder: Callable[..., Any]) -> None:
    model = new_encoder().model
    choose_trained(model, ("*",))
    optimizer = make_optimizer(Trainee(model, Recipe()), Recipe(weight_decay=0.3))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if name == "clip.logit_scale":  # CLIP's own, which nothing uses
            continue
        spared = name.endswith(("bias", "logit_scale", "class_embedding")) or "norm" in name
        assert decays[id(parameter)] == (0.0 if spared else 0.3), name
    choose_trained(model, ("clip.*",))
    groups = make_optimizer(Trainee(model, Recipe()), Recipe()).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(model.clip.parameters())) - 1


def test_patterns_give_parameters_rates_decays_and_first_steps_of_their_own(new_encoder: Callable[..., Any]) -> None:
    model = new_encoder().model
    choose_trained(model, ("clip.text_model.*", "audio_projection.*", "logit_scale"))
    recipe = Recipe(
        learning_rate=1e-4, weight_decay=0.3, rates={"clip.text_model.*": 5e-6}, beta2=0.98,
        decays={"clip.text_model.embeddings.*": 0.01}, from_steps={"audio_projection.linear1.*": 300, "audio_*": 100},
    )  # fmt: skip
    optimizer = make_optimizer(Trainee(model, recipe), recipe)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert set(found) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, group in found.items():
        assert group["peak"] == (5e-6 if name.startswith("clip.text_model.") else 1e-4)
        decay = 0.01 if name.startswith("clip.text_model.embeddings.") else 0.3
        assert group["weight_decay"] == (decay if model.get_parameter(name).ndim >= 2 else 0.0)
        assert group["betas"] == (0.9, 0.98)
        later = 300 if "linear1" in name else 100 if name.startswith("audio_") else 0
        assert group["from_step"] == later


def test_with_the_pattern_of_all_everything_decays(new_encoder: Callable[..., Any]) -> None:
    model = new_encoder().model
    choose_trained(model, ("*",))
    recipe = Recipe(weight_decay=0.3, decays={"*": 0.05})
    optimizer = make_optimizer(Trainee(model, recipe), recipe)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.05}


@pytest.mark.parametrize("table", ["rates", "decays", "from_steps"])
def test_a_pattern_of_a_table_that_reaches_nothing_that_trains_is_an_error(
    new_encoder: Callable[..., Any], table: str
) -> None:
    model = new_encoder().model
    choose_trained(model, ("clip.*",))
    recipe = Recipe(**{table: {"audio_projection.*": 1}})
    with pytest.raises(TrainError, match=rf"{table}: 'audio_projection\.\*' matches nothing that trains"):
        make_optimizer(Trainee(model, recipe), recipe)


def vectors_of(encoder: Any, features: Features, batch: Batch) -> dict[str, torch.Tensor]:
    """Embed item by item, the slow way; items without the modality give nothing."""
    prompts = prompts_of(features)
    found: dict[str, list[torch.Tensor]] = {"a": [], "i": [], "t": []}
    for n, label in enumerate(batch.label):
        if batch.audio[n] >= 0:
            mel = torch.from_numpy(features.mel(batch.audio[n], batch.shift[n]))[None]
            found["a"].append(encoder.model.audio_vectors(mel)[0])
        if batch.image[n] >= 0:
            square = np.array(features.squares[batch.image[n]])
            square = np.fliplr(square).copy() if batch.flip[n] else square
            found["i"].append(encoder.model.image_vectors(encoder.processor.pixels(torch.from_numpy(square)[None]))[0])
        tokens = encoder.processor.tokens([prompts[label][batch.prompt[n]]])
        found["t"].append(encoder.model.text_vectors(**tokens)[0])
    return {letter: torch.stack(rows) for letter, rows in found.items() if rows}


@pytest.mark.parametrize("same_species", ["masked", "positive", "negative"])
def test_the_three_losses_equal_those_of_items_embedded_one_by_one(
    encoder: Any,
    make_features: Callable[..., Features],
    batch_of: Callable[..., Batch],
    losses: Callable[..., Any],
    same_species: Any,
) -> None:
    features = make_features(COUNTS)
    flip = np.array([True, False, True, False, False])
    batch = batch_of([0, 3, 5, 8, 1], [0, 4, 6, 9, 2], [0, 1, 2, 3, 0], flip=flip)
    recipe = recipe_of(**ALL_LOSSES, same_species=same_species, kinship=0.2)
    with torch.inference_mode():
        found = losses(encoder, features, batch, recipe)
        vectors = vectors_of(encoder, features, batch)
        scale, lineage = encoder.model.logit_scale.exp(), torch.from_numpy(features.lineage[batch.label])
        for pair in ("at", "ai", "it"):
            expected = contrastive(
                vectors[pair[0]], vectors[pair[1]], scale, lineage, targets=Targets(same_species, 0.2)
            )
            assert found[pair].item() == pytest.approx(expected.item(), abs=2e-4)


def test_species_without_a_partner_sit_out_that_loss_and_no_other(
    encoder: Any, make_features: Callable[..., Features], batch_of: Callable[..., Batch], losses: Callable[..., Any]
) -> None:
    features = make_features(COUNTS)
    batch = batch_of([0, 3, 5, 8], [-1, 4, -1, 9], [0, 1, 2, 3])
    kept = batch_of([3, 8], [4, 9], [1, 3], prompt=batch.prompt[[1, 3]])
    with torch.inference_mode():
        found = losses(encoder, features, batch, recipe_of(**ALL_LOSSES))
        pairs = losses(encoder, features, kept, recipe_of(**ALL_LOSSES))
        vectors = vectors_of(encoder, features, batch)
        lineage = torch.from_numpy(features.lineage[batch.label])
        whole = contrastive(vectors["a"], vectors["t"], encoder.model.logit_scale.exp(), lineage)
    assert found["at"].item() == pytest.approx(whole.item(), abs=2e-4)
    assert found["ai"].item() == pytest.approx(pairs["ai"].item(), abs=2e-4)
    assert found["it"].item() == pytest.approx(pairs["it"].item(), abs=2e-4)


@pytest.mark.parametrize("image", [[-1, -1, -1], [-1, 4, -1]])
def test_a_batch_with_less_than_two_pictures_has_the_sound_and_name_loss_alone(
    encoder: Any,
    make_features: Callable[..., Features],
    batch_of: Callable[..., Batch],
    losses: Callable[..., Any],
    image: list[int],
) -> None:
    features = make_features(COUNTS)
    with torch.inference_mode():
        found = losses(encoder, features, batch_of([0, 3, 5], image, [0, 1, 2]), recipe_of(**ALL_LOSSES))
    assert set(found) == {"at"}


def test_the_whole_loss_is_the_weighted_sum_and_the_ramp_spares_sound_and_name() -> None:
    found = {"at": torch.tensor(2.0), "ai": torch.tensor(3.0), "it": torch.tensor(5.0)}
    recipe = recipe_of(audio_text=0.9, audio_image=0.5, image_text=0.25, ramp_epochs=1.0)
    for step, expected in ((10, 1.8 + 1.5 + 1.25), (2, 1.8 + 0.3 + 0.25), (0, 1.8)):
        assert total_loss(found, weights_at(step, 10, recipe)).item() == pytest.approx(expected)
    assert total_loss({"at": torch.tensor(2.0)}, weights_at(10, 10, recipe)).item() == pytest.approx(1.8)


def test_a_batch_that_holds_no_pair_at_all_is_an_error_that_says_so() -> None:
    with pytest.raises(TrainError, match="held no pair of any loss"):
        total_loss({}, weights_at(0, 1, recipe_of()))


def test_sounds_shorter_than_a_window_start_it_when_the_recipe_says_so(
    encoder: Any, make_features: Callable[..., Features], batch_of: Callable[..., Batch], losses: Callable[..., Any]
) -> None:
    features = make_features(COUNTS, n_frames=400)
    moved = batch_of([0, 3, 5], [0, 4, 6], [0, 1, 2], shift=np.array([0.9, 0.5, 0.2]))
    still = batch_of([0, 3, 5], [0, 4, 6], [0, 1, 2])

    def loss(batch: Batch, shift_audio: bool) -> float:
        recipe = recipe_of(shift_audio=shift_audio)
        with torch.inference_mode():
            return losses(encoder, features, batch, recipe)["at"].item()

    assert loss(moved, False) == loss(still, True)
    assert loss(moved, True) != loss(still, True)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    states = []
    for n, seed in enumerate((1, 1, 2)):
        encoder = new_encoder()
        (tmp_path / str(n)).mkdir()
        run(encoder, make_features(COUNTS), recipe_of(**ALL_LOSSES, trained=("*",), seed=seed), tmp_path / str(n))
        states.append(state_of(encoder))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])
    for one, other in zip(log_of(tmp_path / "0"), log_of(tmp_path / "1"), strict=True):
        assert without_clock(one) == without_clock(other)


@pytest.mark.parametrize(
    ("losses", "trained"),
    [
        ({"audio_text": 0.0, "image_text": 1.0}, ("clip.*", "logit_scale")),
        ({"audio_text": 1.0}, ("audio_model.audio_encoder.layers.*", "audio_projection.*", "logit_scale")),
    ],
    ids=["pictures", "sounds"],
)
def test_a_few_steps_on_a_few_species_lower_the_loss(
    new_encoder: Callable[..., Any],
    make_features: Callable[..., Features],
    tmp_path: Path,
    losses: dict[str, float],
    trained: tuple[str, ...],
) -> None:
    recipe = recipe_of(**losses, trained=trained, epochs=14, learning_rate=3e-4, warmup_steps=8, flip_images=False)
    run(new_encoder(), make_features([(2, 2)] * 8), recipe, tmp_path)
    course = [line["loss"] for line in log_of(tmp_path)]
    assert len(course) == 28
    assert np.mean(course[-4:]) < 0.6 * np.mean(course[:4])


def test_every_step_is_logged_with_its_numbers_and_every_look_too(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    looks = []

    def look(encoder: Any) -> dict[str, float]:
        assert not any(module.training for module in encoder.model.modules())
        looks.append(len(log_of(tmp_path)))
        return {"a2t": 0.25}

    recipe = recipe_of(**ALL_LOSSES, stage="stage9", epochs=3, batch_size=4, ramp_epochs=1.0, validate_every=2)
    recipe = Recipe(**{**recipe.__dict__, "trained": ("audio_projection.*",)})
    facts = run(new_encoder(), make_features(COUNTS), recipe, tmp_path, validate=look)
    lines = log_of(tmp_path)
    steps, vals = [line for line in lines if "loss" in line], [line for line in lines if "val" in line]
    assert facts["n_steps"] == len(steps) == 6
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in steps] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert [line["lambda"] for line in steps] == pytest.approx([0, 0.25, 0.5, 0.5, 0.5, 0.5])
    for line in steps:
        assert set(line) == {
            *("stage", "step", "epoch", "loss", "loss_at", "loss_ai", "loss_it", "lambda"),
            *("logit_scale", "lr", "grad_norm", "samples_per_s", "wait_share", "peak_share"),
        }
        assert line["stage"] == "stage9"
        ramp = line["lambda"] / 0.5
        expected = line["loss_at"] + ramp * 0.5 * (line["loss_ai"] + line["loss_it"])
        assert line["loss"] == pytest.approx(expected, rel=1e-5)
    assert vals == [{"stage": "stage9", "step": step, "val": {"a2t": 0.25}} for step in (0, 4, 6)]
    assert facts["last"] == steps[-1]


def without_clock(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("samples_per_s", "wait_share", "peak_share")}


def test_the_gate_adds_its_penalty_above_the_ceiling_alone() -> None:
    keeper = Keeper(Gate(above=0.03, penalty=2.0), before=1.0)
    weights = {"at": 1.0, "ai": 0.0, "it": 0.0}
    for atc, expected in ((1.02, 1.02), (1.13, 1.13 + 2 * 0.1)):
        assert total_loss({"at": torch.tensor(atc)}, weights, keeper).item() == pytest.approx(expected)


def test_the_gate_switches_the_other_losses_off_while_the_sounds_suffer(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    gate = Gate(above=1e-6, below=-0.5, patience=2, penalty=2.0)
    recipe = recipe_of(**ALL_LOSSES, epochs=6, batch_size=4, gate=gate, trained=("clip.*",), learning_rate=3e-2)
    run(new_encoder(), make_features(COUNTS), recipe, tmp_path)
    lambdas = [line["lambda"] for line in log_of(tmp_path)]
    assert lambdas[0] == 0.5
    assert lambdas[-1] == 0.0  # nothing can fall so far as to open it again


def test_no_better_look_for_so_long_ends_the_stage_and_the_best_weights_are_kept(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    found = iter([0.1, 0.2, 0.5, 0.3, 0.4, 0.2, 0.9])
    seen = []

    def look(encoder: Any) -> dict[str, float]:
        seen.append(state_of(encoder))
        return {"a2t": next(found)}

    for keep, expected in (("best", 2), ("last", 5)):
        encoder = new_encoder()
        (tmp_path / keep).mkdir()
        recipe = recipe_of(trained=AUDIO, epochs=9, patience=3, keep=keep, validate_every=1)
        facts = run(encoder, make_features(COUNTS), recipe, tmp_path / keep, validate=look)
        looks = [line for line in log_of(tmp_path / keep) if "val" in line]
        assert len(looks) == 6
        assert facts["n_steps"] == looks[-1]["step"] < 9 * looks[1]["step"]
        assert facts["best_mean_top1"] == 0.5
        assert all(torch.equal(tensor, seen[expected][name]) for name, tensor in state_of(encoder).items())
        found, seen = iter([0.1, 0.2, 0.5, 0.3, 0.4, 0.2, 0.9]), []


@pytest.mark.parametrize("fields", [{"patience": 2}, {"keep": "best"}], ids=str)
def test_what_goes_by_looks_is_refused_where_there_is_nothing_to_look_at(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path, fields: dict[str, Any]
) -> None:
    features = make_features(COUNTS)
    asked = {"validate": lambda model: look(model, features), "odds": odds(features)}
    with pytest.raises(TrainError, match="patience and keep = 'best' go by looks at the val split, and it is empty"):
        run(new_encoder(), features, recipe_of(trained=AUDIO, **fields), tmp_path, **asked)


def test_remarks_and_an_empty_split_are_warned_of(
    new_encoder: Callable[..., Any],
    make_features: Callable[..., Features],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    features = make_features(COUNTS)
    asked = {"validate": lambda model: look(model, features), "odds": odds(features)}
    run(new_encoder(), features, recipe_of(trained=AUDIO, warmup_steps=500), tmp_path, **asked)
    said = capsys.readouterr().err
    assert "warning: stage1: warmup_steps is 500; the stage ends after 1, still below its rate" in said
    assert "warning: stage1: the val split is empty, so nothing will tell whether it learns" in said


def test_progress_shows_what_the_last_look_found(
    new_encoder: Callable[..., Any],
    make_features: Callable[..., Features],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = recipe_of(trained=("audio_projection.*",), batch_size=4, epochs=2, validate_every=1)
    found = iter([0.1, 0.2, 0.375])
    run(new_encoder(), make_features(COUNTS), recipe, tmp_path, validate=lambda one: {"a2t": 0.125, "t2a": next(found)})
    assert capsys.readouterr().err.endswith(", 25.0 % right at the last look\n")


def test_the_moving_mean_of_the_weights_is_what_is_looked_at_and_kept(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    name, courses = "audio_projection.linear1.weight", {}
    for ema in (0.0, 0.6):
        encoder, course = new_encoder(), []
        (tmp_path / str(ema)).mkdir()
        run(
            encoder, make_features(COUNTS), recipe_of(trained=AUDIO, batch_size=3, ema=ema, validate_every=0.01),
            tmp_path / str(ema), validate=lambda one, course=course: course.append(state_of(one)[name]) or {},
        )  # fmt: skip
        courses[ema] = [*course, state_of(encoder)[name]]
    mean = courses[0.0][0]
    assert len(courses[0.0]) > 4
    for own, averaged in zip(courses[0.0][1:-1], courses[0.6][1:-1], strict=True):
        mean = 0.6 * mean + 0.4 * own
        assert torch.allclose(averaged, mean, atol=1e-7)
    assert torch.equal(courses[0.6][-1], courses[0.6][-2])


def test_parameters_wait_for_their_first_step(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    encoder, course = new_encoder(), []
    late, early = "audio_projection.linear2.weight", "audio_projection.linear1.weight"
    recipe = recipe_of(trained=AUDIO, batch_size=3, from_steps={"*.linear2.*": 2}, validate_every=0.01)
    run(encoder, make_features(COUNTS), recipe, tmp_path, validate=lambda one: course.append(state_of(one)) or {})
    assert torch.equal(course[2][late], course[0][late])
    assert not torch.equal(course[3][late], course[2][late])
    assert not torch.equal(course[1][early], course[0][early])


def test_low_rank_additions_train_and_the_model_has_its_plain_names_again(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    encoder = new_encoder()
    before = state_of(encoder)
    recipe = recipe_of(**ALL_LOSSES, trained=("clip.text_model.*.q_proj.*", "audio_projection.*"), lora_rank=2)
    facts = run(encoder, make_features(COUNTS), recipe, tmp_path)
    after = state_of(encoder)
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith(("q_proj.weight", "linear1.weight", "linear2.weight")) for name in changed)
    assert facts["banks"] == ["i"]
    for name in changed:
        assert torch.linalg.matrix_rank((after[name] - before[name]).double(), atol=1e-6) <= 2


def spoil(encoder: Any, name: str) -> None:
    with torch.no_grad():
        encoder.model.get_parameter(name).view(-1)[0] = float("nan")


def test_a_loss_that_is_no_number_stops_before_the_weights_move(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    encoder = new_encoder()
    spoil(encoder, "audio_projection.linear1.weight")
    before = state_of(encoder)
    with pytest.raises(TrainError, match="stage1: the loss is nan at step 0"):
        run(encoder, make_features(COUNTS), recipe_of(trained=CLIP), tmp_path)
    after = state_of(encoder)
    assert all(torch.equal(before[key], after[key]) or torch.isnan(before[key]).any() for key in before)
    assert log_of(tmp_path) == []


def test_a_gradient_that_is_no_number_stops_before_the_weights_move(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    encoder = new_encoder()
    encoder.model.audio_projection.linear1.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = state_of(encoder)
    with pytest.raises(TrainError, match="gradient"):
        run(encoder, make_features(COUNTS), recipe_of(trained=("audio_projection.*",)), tmp_path)
    after = state_of(encoder)
    assert all(torch.equal(before[key], after[key]) for key in before)
