"""Low-rank additions: they train and nothing else does, and added up they leave a plain model with the same vectors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from biovita.errors import TrainError
from biovita.models import hub
from biovita.models.vita import FRAMES, BioVitaConfig, BioVitaModel
from biovita.train import lora

TOWERS = ("audio_model.*", "audio_projection.*", "audio_adapter.*", "clip.*", "logit_scale")
LAST = ("audio_projection.*", "clip.visual_projection.*", "clip.text_projection.*")


@pytest.fixture
def model(new_encoder: Callable[..., Any]) -> BioVitaModel:
    return new_encoder().model


def vectors(model: BioVitaModel) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    side = model.clip.config.vision_config.image_size
    ids = torch.tensor([[5, 7, 9, 2], [6, 8, 4, 2]])
    return torch.cat(
        [
            model.audio_vectors(torch.randn(2, FRAMES, 64, generator=draw)),
            model.image_vectors(torch.randn(2, 3, side, side, generator=draw)),
            model.text_vectors(ids, torch.ones_like(ids)),
        ]
    )


def take_steps(model: BioVitaModel, n: int = 3) -> None:
    """Pull the vectors somewhere else, with steps large enough to be seen."""
    goal = torch.nn.functional.normalize(torch.randn(6, model.config.width, generator=torch.Generator().manual_seed(4)))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(n):
        optimizer.zero_grad()
        loss = -(vectors(model) * goal).sum() * model.logit_scale.exp()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("patterns", [TOWERS, LAST])
def test_the_merged_model_has_plain_names_and_the_same_vectors(model: BioVitaModel, patterns: tuple[str, ...]) -> None:
    names, keys = [name for name, _ in model.named_parameters()], list(model.state_dict())
    with torch.no_grad():
        before = vectors(model)
    lora.add(model, patterns, 4)
    take_steps(model)
    with torch.no_grad():
        unmerged = vectors(model)
    lora.merge(model)
    with torch.no_grad():
        merged = vectors(model)
    assert (unmerged - before).abs().max() > 1e-3
    assert (merged - unmerged).abs().max() <= 1e-6
    assert [name for name, _ in model.named_parameters()] == names
    assert list(model.state_dict()) == keys
    assert not hasattr(model, "peft_config")


def test_adding_does_not_change_the_vectors_yet(model: BioVitaModel) -> None:
    with torch.no_grad():
        before = vectors(model)
        lora.add(model, TOWERS, 4)
        assert torch.equal(vectors(model), before)


def test_only_the_additions_train_and_all_else_stays_bit_for_bit(model: BioVitaModel) -> None:
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    added = lora.add(model, TOWERS, 4)
    assert added == [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[-3] for name in added if name != "logit_scale"} == {"lora_A", "lora_B"}
    take_steps(model)
    now = dict(model.named_parameters())
    for name, parameter in before.items():
        plain = now.get(name, now.get(name.replace(".weight", ".base_layer.weight")))
        plain = now.get(name.replace(".bias", ".base_layer.bias")) if plain is None else plain
        assert plain is not None
        assert torch.equal(plain, parameter) == (name != "logit_scale"), name
    assert all(now[name].grad is not None for name in added)


def test_the_rank_is_that_of_every_change(model: BioVitaModel) -> None:
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    lora.add(model, TOWERS, 3)
    take_steps(model)
    lora.merge(model)
    changes = {name: p - before[name] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    ranks = {name: int(torch.linalg.matrix_rank(change, rtol=1e-4)) for name, change in changes.items() if change.ndim}
    assert set(ranks.values()) == {3}
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(ranks) == linear


def test_the_seed_decides_where_the_additions_start(new_encoder: Callable[..., Any]) -> None:
    drawn = []
    for seed in (1, 1, 2):
        model = new_encoder().model
        torch.manual_seed(seed)
        names = lora.add(model, LAST, 4)
        drawn.append(torch.cat([dict(model.named_parameters())[name].flatten() for name in names]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_norm_that_is_written_out_whole_trains_as_it_is(model: BioVitaModel) -> None:
    norm = "audio_model.audio_encoder.norm.weight"
    added = lora.add(model, ("audio_projection.*", norm), 2)
    assert norm in added
    assert {name.split(".")[0] for name in added if name != norm} == {"audio_projection"}


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (("audio_projection.*", "clip.visoin_model.*"), "'clip.visoin_model.*' reaches no linear layer"),
        (("audio_projection.*", "audio_model.audio_encoder.norm.*"), "norm.*' reaches no linear layer"),
        (("logit_scale",), "logit_scale reaches no linear layer"),
        ((), "nothing reaches no linear layer"),
    ],
)
def test_a_pattern_without_a_linear_layer_is_an_error(
    model: BioVitaModel, patterns: tuple[str, ...], said: str
) -> None:
    with pytest.raises(TrainError) as error:
        lora.add(model, patterns, 4)
    assert said in str(error.value)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_a_model_with_an_adapter_and_one_without_take_the_same_patterns(new_encoder: Callable[..., Any]) -> None:
    config = new_encoder().model.config.to_dict() | {"audio_projection": "adapter"}
    with_adapter = BioVitaModel(BioVitaConfig.from_dict(config)).eval()
    added = lora.add(with_adapter, TOWERS, 2)
    assert "audio_adapter.lora_A.default.weight" in added
    assert not any(name.startswith("audio_adapter") for name in lora.add(new_encoder().model, TOWERS, 2))


def test_dropout_and_batch_norm_are_what_they_were(model: BioVitaModel) -> None:
    modes = {name: module.training for name, module in model.named_modules()}
    lora.add(model, TOWERS, 2)
    now = dict(model.named_modules())
    assert not any(isinstance(m, torch.nn.Dropout) and m.p > 0 for n, m in now.items() if "lora" in n)
    assert {name: now[name].training for name in modes} == modes
    model.train()
    lora.merge(model)
    assert all(module.training for module in model.modules())


def test_a_merged_model_is_saved_and_loaded_like_any_other(new_encoder: Callable[..., Any], tmp_path: Path) -> None:
    encoder = new_encoder()
    lora.add(encoder.model, TOWERS, 2)
    take_steps(encoder.model)
    lora.merge(encoder.model)
    hub.save(encoder, tmp_path / "model", card="# merged\n")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {*hub.FILES, "README.md"}
    with torch.no_grad():
        assert torch.equal(vectors(hub.load_encoder(tmp_path / "model").model), vectors(encoder.model))
