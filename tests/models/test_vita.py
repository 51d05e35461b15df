"""The network: sizes, unit vectors, where it pools, what it refuses."""

import json
import math
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, ClapAudioConfig

from biovita.models.vita import BioVitaConfig, BioVitaModel


def of_size(size: str) -> BioVitaModel:
    """Build a size without memory for its weights."""
    shape = json.loads((files("biovita.models") / "sizes" / f"{size}.json").read_text())
    ends = {"bos_token_id": 0, "eos_token_id": shape["vocab_size"] - 1, "pad_token_id": 1}
    shape["clip_config"]["text_config"] |= {"vocab_size": shape["vocab_size"], **ends}
    config = BioVitaConfig(**{key: shape[key] for key in ("audio_config", "clip_config", "audio_projection")})
    with torch.device("meta"):
        return BioVitaModel(config)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_paper_size_is_bioclip_2_and_clap() -> None:
    model = of_size("paper")
    assert count(model.clip) == 427_616_513
    assert count(model.audio_model) == 27_534_488
    assert count(model.audio_projection) == 656_384
    assert count(model.audio_adapter) == 512 * 768
    audio, released = model.config.audio_config, ClapAudioConfig()  # its defaults are those of the released checkpoint
    assert isinstance(audio, ClapAudioConfig)
    for key in ("patch_embeds_hidden_size", "hidden_size", "projection_dim", "spec_size", "window_size"):
        assert getattr(audio, key) == getattr(released, key)
    for key in ("depths", "num_attention_heads"):
        assert list(getattr(audio, key)) == list(getattr(released, key))


@pytest.mark.parametrize(("size", "millions"), [("tiny", 2.9), ("small", 31.3), ("paper", 456.2)])
def test_every_shipped_size_is_built_and_is_as_large_as_it_should_be(size: str, millions: float) -> None:
    model = of_size(size)
    assert model.config.width == 768
    assert count(model) / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_shipped_sizes_are_those_that_a_model_can_start_from() -> None:
    from typing import get_args

    from biovita.models.hub import Size

    assert sorted(path.name for path in (files("biovita.models") / "sizes").iterdir()) == sorted(
        f"{size}.json" for size in get_args(Size)
    )


@pytest.fixture(scope="module")
def vectors(encoder: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = encoder.processor.tokens(["owl", "Turdus merula", ""])
    with torch.inference_mode():
        return {
            "audio": encoder.model.audio_vectors(torch.randn(3, 1001, 64, generator=generator)),
            "image": encoder.model.image_vectors(torch.randn(3, 3, 64, 64, generator=generator)),
            "text": encoder.model.text_vectors(**tokens),
        }


@pytest.mark.parametrize("modality", ["audio", "image", "text"])
def test_every_tower_gives_float32_unit_vectors(vectors: dict[str, torch.Tensor], modality: str) -> None:
    found = vectors[modality]
    assert found.shape == (3, 768)
    assert found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-6)
    assert (found @ found.T).triu(1).max() < 0.9999


@pytest.mark.parametrize("n_frames", [1, 1000, 1002])
def test_a_mel_of_another_length_is_refused(encoder: Any, n_frames: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1001 frames.*got {n_frames}"):
        encoder.model.audio_vectors(torch.zeros(1, n_frames, 64))


def test_text_is_pooled_at_its_first_end_so_padding_changes_nothing(encoder: Any) -> None:
    alone = encoder.processor.tokens(["owl"])
    padded = {key: value[:1] for key, value in encoder.processor.tokens(["owl", "x" * 60]).items()}
    assert padded["input_ids"].shape[1] > alone["input_ids"].shape[1]
    end = alone["input_ids"].shape[1] - 1
    with torch.inference_mode():
        one, other = encoder.model.text_vectors(**alone), encoder.model.text_vectors(**padded)
        hidden = encoder.model.clip.text_model(**padded).last_hidden_state[:, end]
        pooled = torch.nn.functional.normalize(encoder.model.clip.text_projection(hidden), dim=-1)
    assert torch.allclose(one, other, atol=1e-6)
    assert torch.allclose(pooled, other, atol=1e-6)


def test_the_last_letter_of_a_name_matters(encoder: Any) -> None:
    with torch.inference_mode():
        found = encoder.model.text_vectors(**encoder.processor.tokens(["Rana a", "Rana b"]))
    assert not torch.allclose(found[0], found[1], atol=1e-4)


def test_a_new_model_starts_at_the_temperature_of_clip(encoder: Any) -> None:
    assert encoder.model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_direct_projection_needs_equal_widths() -> None:
    widths = {"audio_config": {"projection_dim": 512}, "clip_config": {"projection_dim": 768}}
    with pytest.raises(ValueError, match=r"projection_dim 512 to equal .*projection_dim 768"), torch.device("meta"):
        BioVitaModel(BioVitaConfig(**widths, audio_projection="direct"))


def test_the_seed_decides_the_weights_and_leaves_the_worlds_chance_alone(new_encoder: Callable[..., Any]) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    one = new_encoder(seed=1).model.state_dict()
    assert torch.equal(torch.rand(1), expected)
    same, other = new_encoder(seed=1).model.state_dict(), new_encoder(seed=2).model.state_dict()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_saved_and_loaded_by_transformers_alone_the_weights_are_the_same_bits(encoder: Any, tmp_path: Path) -> None:
    encoder.model.save_pretrained(tmp_path / "one")
    again = AutoModel.from_pretrained(tmp_path / "one")
    assert isinstance(again, BioVitaModel)
    one, other = encoder.model.state_dict(), again.state_dict()
    assert list(one) == list(other)
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key
    assert again.config.audio_projection == encoder.model.config.audio_projection
