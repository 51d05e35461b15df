"""A model made fast: how far its vectors move, what stays float32, what is refused."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.models.clap.modeling_clap import ClapAudioSelfAttention

from biovita.errors import ModelError
from biovita.models.speed import OneDnnLinear, WindowAttention, prepare
from biovita.models.vita import BioVitaModel

TOWERS = ("audio", "image", "text")


@pytest.fixture(scope="module")
def model(lively: Any) -> BioVitaModel:
    """An unprepared model to compare with; copy it to prepare one."""
    return lively.model


@pytest.fixture(scope="module")
def inputs(model: BioVitaModel) -> dict[str, tuple[torch.Tensor, ...]]:
    draw = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 100, (6, 9), generator=draw)
    lengths = torch.tensor([2, 3, 5, 9, 9, 4])
    mask = torch.arange(9) < lengths[:, None]
    eos: int = model.clip.config.text_config.eos_token_id
    ids[torch.arange(9) >= lengths[:, None] - 1] = eos
    loud = torch.rand(6, 1, 64, generator=draw) ** 4 * 60  # in some bands: white noise always has the same vector
    patches = torch.randn(6, 3, 8, 8, generator=draw)
    return {
        "audio": (loud + torch.randn(6, 1001, 64, generator=draw) * 5 - 80,),
        "image": (functional.interpolate(patches, (64, 64)),),
        "text": (ids, mask.long()),
    }


def vectors(model: BioVitaModel, tower: str, tensors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.inference_mode():
        return getattr(model, f"{tower}_vectors")(*tensors)


@pytest.mark.parametrize("tower", TOWERS)
def test_in_fp32_a_vector_stays_what_it_is(model: BioVitaModel, inputs: dict[str, Any], tower: str) -> None:
    fast = prepare(copy.deepcopy(model))
    change = vectors(fast, tower, inputs[tower]) - vectors(model, tower, inputs[tower])
    assert change.abs().max() < 2e-6


@pytest.mark.parametrize("tower", TOWERS)
def test_in_bf16_a_vector_keeps_its_direction(model: BioVitaModel, inputs: dict[str, Any], tower: str) -> None:
    plain = vectors(model, tower, inputs[tower])
    half = vectors(prepare(copy.deepcopy(model), precision="bf16"), tower, inputs[tower])
    between = functional.cosine_similarity(plain[:1], plain[1:])
    assert between.max() < 0.99  # or there would be nothing to keep
    assert functional.cosine_similarity(half, plain).min() >= 0.9999
    assert functional.cosine_similarity(half - half.mean(0), plain - plain.mean(0)).min() >= 0.999
    assert (half - plain).abs().max() > 1e-5  # it did compute in bf16
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.norm(dim=-1), torch.ones(len(half)))


def test_only_the_products_of_the_blocks_are_halved(model: BioVitaModel) -> None:
    half = prepare(copy.deepcopy(model), precision="bf16")
    for name, tensor in half.state_dict().items():
        is_product = "norm" not in name and (".layers." in name) and tensor.is_floating_point()
        assert tensor.dtype == (torch.bfloat16 if is_product else model.state_dict()[name].dtype), name


def test_the_rest_in_float32_takes_away_most_of_the_rounding(model: BioVitaModel, inputs: dict[str, Any]) -> None:
    half, wholly = prepare(copy.deepcopy(model), precision="bf16"), copy.deepcopy(model).bfloat16()
    for tower, tensors in inputs.items():
        plain = vectors(model, tower, tensors)
        rounded = vectors(wholly, tower, tuple(one.bfloat16() if one.is_floating_point() else one for one in tensors))
        assert (vectors(half, tower, tensors) - plain).norm() < 0.8 * (rounded - plain).norm(), tower


def test_a_prepared_model_has_the_tensors_of_the_plain_one(model: BioVitaModel) -> None:
    fast = prepare(copy.deepcopy(model)).state_dict()
    assert fast.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(fast[name], tensor), name


def test_where_a_gradient_is_wanted_it_is_the_plain_models(model: BioVitaModel, inputs: dict[str, Any]) -> None:
    plain, fast = copy.deepcopy(model), prepare(copy.deepcopy(model))
    for one in (plain, fast):
        one.image_vectors(*inputs["image"])[:, :5].sum().backward()
    found = dict(fast.named_parameters())
    n_gradients = 0
    for name, tensor in plain.named_parameters():
        if tensor.grad is not None:
            n_gradients += 1
            torch.testing.assert_close(found[name].grad, tensor.grad)
    assert n_gradients > 20


def test_compiling_compiles_every_tower(model: BioVitaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    prepare(copy.deepcopy(model))
    assert not compiled
    fast = prepare(copy.deepcopy(model), compiled=True)
    assert compiled == [fast.audio_model, fast.clip.vision_model, fast.clip.text_model]


@pytest.mark.parametrize("size", [(0, 12), (1, 12), (5, 12), (2, 3, 12), (2, 3, 4, 12)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_onednns_product_is_torchs(size: tuple[int, ...], has_bias: bool) -> None:
    layer = OneDnnLinear(12, 7, bias=has_bias)
    input = torch.randn(size)
    with torch.inference_mode():
        torch.testing.assert_close(layer(input), functional.linear(input, layer.weight, layer.bias))
        torch.testing.assert_close(
            layer(input.transpose(0, -2)), functional.linear(input.transpose(0, -2), layer.weight, layer.bias)
        )


def attention(model: BioVitaModel) -> ClapAudioSelfAttention:
    return next(module for module in model.modules() if isinstance(module, ClapAudioSelfAttention))


def test_attention_through_the_fused_kernel_is_the_plain_one(model: BioVitaModel) -> None:
    plain = attention(model)
    windows = torch.randn(3 * 4, plain.window_size[0] ** 2, plain.all_head_size)
    mask = torch.where(torch.rand(4, windows.shape[1], windows.shape[1]) < 0.3, -100.0, 0.0)
    with torch.inference_mode():
        for given in (None, mask):
            torch.testing.assert_close(WindowAttention(plain)(windows, given)[0], plain(windows, given)[0])


def test_attention_weights_are_not_promised_in_silence(model: BioVitaModel) -> None:
    fused = WindowAttention(attention(model))
    with pytest.raises(ValueError, match="keeps no attention weights"):
        fused(torch.randn(4, 64, 64), output_attentions=True)


def test_fp16_wants_a_gpu(model: BioVitaModel) -> None:
    with pytest.raises(ModelError, match="precision 'fp16': needs a GPU; on a CPU use bf16 or fp32"):
        prepare(copy.deepcopy(model), precision="fp16")


def test_an_unknown_precision_is_refused_with_the_known_ones(model: BioVitaModel) -> None:
    with pytest.raises(ModelError, match="precision 'int4': unknown; it is one of fp32, bf16, fp16"):
        prepare(copy.deepcopy(model), precision="int4")  # pyright: ignore[reportArgumentType]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("tower", TOWERS)
def test_on_a_gpu_a_vector_keeps_its_direction(
    model: BioVitaModel, inputs: dict[str, Any], precision: Any, tower: str
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    plain = vectors(model, tower, inputs[tower])
    moved = copy.deepcopy(model)
    nn.Module.to(moved, "cuda")
    fast = prepare(moved, precision=precision)
    found = vectors(fast, tower, tuple(one.cuda() for one in inputs[tower])).cpu()
    assert functional.cosine_similarity(found, plain).min() >= (1 - 1e-6 if precision == "fp32" else 0.9999)
