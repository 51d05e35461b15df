"""Published weights become ours and go back, bit for bit; what does not fit is named."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import ClapConfig, ClapModel

import biovita
from biovita.errors import ModelError
from biovita.files import sha256_file
from biovita.models import convert, hub, moves, open_clip
from biovita.models.convert import Parts
from biovita.models.mel import LogMel
from biovita.models.pickles import read_pickle
from layouts import (
    MEAN,
    N_TEXT,
    STD,
    WIDTH,
    Release,
    clap_model,
    open_clip_tensors,
    write_clap,
    write_open_clip,
    write_release,
)

WEIGHTS = "open_clip_model.safetensors"
KEY = "visual.transformer.resblocks.1.attn.in_proj_weight"


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Open pickles without a child, which costs seconds; test_pickles.py has children. The cache is the test's own."""

    def here(source: Path, out: Path) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file(read_pickle(source), out)

    monkeypatch.setattr(moves, "to_safetensors", here)
    monkeypatch.setenv("BIOVITA_HOME", str(tmp_path / "home"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Image and text towers in open_clip's layout, to read or to damage."""
    write_open_clip(tmp_path / "clip")
    return tmp_path / "clip"


def edit(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def unit(vectors: Any) -> np.ndarray:
    return functional.normalize(vectors.pooler_output, dim=-1).numpy()


@torch.inference_mode()
def agree(model: Any, release: Release) -> None:
    """Compare the three towers with transformers' own models, and what surrounds them with what the folder says."""
    noise = np.random.default_rng(1)
    picture = Image.fromarray(noise.integers(0, 255, (40, 50, 3), np.uint8))
    square = torch.tensor(model.processor.square(picture)[None]).permute(0, 3, 1, 2) / 255
    pixels = (square - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    theirs = unit(release.clip.get_image_features(pixel_values=pixels))
    np.testing.assert_allclose(model.embed_image([picture]), theirs, atol=2e-6)
    texts = ["Turdus merula", "owl"]
    tokens = model.processor.tokenizer(texts, padding=True, return_tensors="pt")
    np.testing.assert_allclose(model.embed_text(texts), unit(release.clip.get_text_features(**tokens)), atol=2e-6)
    wave = noise.normal(size=480_000).astype(np.float32) / 10
    mel = LogMel(model.processor.feature_extractor)(torch.from_numpy(wave[None]))
    sound = release.clap.get_audio_features(input_features=mel[:, None]).pooler_output
    theirs = functional.normalize(sound @ release.adapter.T, dim=-1).numpy()
    np.testing.assert_allclose(model.embed_audio([(wave, 48_000)], window="centre"), theirs, atol=2e-6)


def test_a_release_gives_the_vectors_that_its_files_mean(tmp_path: Path) -> None:
    release = write_release(tmp_path / "BioVITA")
    model: Any = biovita.load(tmp_path / "BioVITA", device="cpu")
    agree(model, release)
    assert (model.name, model.model.config.width) == ("BioVITA", WIDTH)
    assert model.processor.feature_extractor.frequency_min == 50  # the class's own default is 0
    assert not model.processor.repeats


def test_a_release_is_converted_once_and_again_when_a_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "BioVITA"
    write_release(folder)
    first: Any = hub.load(folder, device="cpu")
    monkeypatch.setattr(hub, "read_release", lambda *_: pytest.fail("converted again"))
    second: Any = hub.load(folder, device="cpu")
    assert first.folder == second.folder
    assert first.weights_sha256 == second.weights_sha256 == sha256_file(first.folder / "model.safetensors")
    assert [path.name for path in (tmp_path / "home" / "models" / "converted").iterdir()] == [first.folder.name]
    monkeypatch.undo()
    monkeypatch.setenv("BIOVITA_HOME", str(tmp_path / "home"))
    edit_json(folder / "open_clip_config.json", lambda table: table["preprocess_cfg"].update(mean=[0.1, 0.1, 0.1]))
    third: Any = hub.load(folder, device="cpu")
    assert third.folder != first.folder
    assert third.processor.fingerprint() != first.processor.fingerprint()


def test_the_published_audio_sizes_are_those_of_claps_own_checkpoint() -> None:
    config = convert._config(convert._audio_config(None), open_clip.CLIPConfig(projection_dim=768), adapter=True)
    ours = {name: tensor.shape for name, tensor in convert.expected_of(config).items() if not name.startswith("clip.")}
    with torch.device("meta"):
        clap = ClapModel(ClapConfig())  # of which laion/clap-htsat-unfused changes nothing
    theirs = {name: t.shape for name, t in clap.state_dict().items() if name.startswith(convert.CLAP_OURS)}
    assert ours == {**theirs, "audio_adapter.weight": (768, 512), "logit_scale": ()}
    n_rest = sum(t.numel() for name, t in clap.state_dict().items() if name.startswith("text_model."))
    assert n_rest >= 124_645_632  # what is left out


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_open_clips_towers_are_clipmodels_bit_for_bit(tmp_path: Path, *, quick_gelu: bool) -> None:
    model = write_open_clip(tmp_path / "clip", quick_gelu=quick_gelu)
    read = open_clip.read_open_clip(tmp_path / "clip")
    assert same(read.tensors, model.state_dict())
    assert read.config.text_config.hidden_act == ("quick_gelu" if quick_gelu else "gelu")
    assert read.config.text_config.eos_token_id == read.config.text_config.vocab_size - 1
    for part in ("text_config", "vision_config"):
        ours, theirs = getattr(read.config, part).to_dict(), getattr(model.config, part).to_dict()
        assert {key for key in ours if ours[key] != theirs[key]} <= {"dtype", "transformers_version"}
    assert [*read.image_processor.image_mean, *read.image_processor.image_std] == [*MEAN, *STD]
    assert read.image_processor.crop_size == {"height": 32, "width": 32}


def test_there_are_as_many_moves_as_open_clip_has_tensors(clip: Path) -> None:
    names = [move.theirs for move in open_clip.moves_of(open_clip.read_config(clip)[0])]
    assert sorted(names) == sorted(load_file(clip / WEIGHTS))


def test_ours_to_open_clip_and_back_changes_no_bit(encoder: Any, tmp_path: Path) -> None:
    parts = Parts(encoder.model.config, encoder.model.state_dict(), encoder.processor)
    convert.write_open_clip(parts, tmp_path / "out")
    back = open_clip.read_open_clip(tmp_path / "out")
    assert same({f"clip.{name}": t for name, t in back.tensors.items()}, towers(parts.tensors))
    assert back.config.to_dict() == encoder.model.config.clip_config.to_dict()
    assert back.tokenizer.get_vocab() == encoder.processor.tokenizer.get_vocab()


def towers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith("clip.")}


def test_open_clip_to_ours_and_back_changes_no_bit(tmp_path: Path) -> None:
    write_release(tmp_path / "BioVITA")
    parts = convert.read_release(tmp_path / "BioVITA", tmp_path)
    convert.write_open_clip(parts, tmp_path / "out")
    assert same(load_file(tmp_path / "out" / WEIGHTS), open_clip_tensors(write_open_clip(tmp_path / "again")))
    one, other = (json.loads((tmp_path / name / "open_clip_config.json").read_text()) for name in ("out", "again"))
    assert one == other  # to the last key, since others compare it with the stock configuration


def test_ours_to_the_release_and_back_changes_no_bit(tmp_path: Path) -> None:
    write_release(tmp_path / "BioVITA")
    clap = write_clap(tmp_path / "clap")
    parts = convert.read_release(tmp_path / "BioVITA", tmp_path)
    parts.tensors["logit_scale"].fill_(1.5)
    convert.write_release(parts, tmp_path / "out", tmp_path, clap=tmp_path / "clap")
    back = convert.read_release(tmp_path / "out", tmp_path)
    assert same(back.tensors, parts.tensors)
    assert back.config.to_dict() == parts.config.to_dict()
    assert back.processor.fingerprint() == parts.processor.fingerprint()
    assert not list((tmp_path / "out").glob("*.safetensors"))  # the release's own loader asks for the .bin by name
    theirs = torch.load(tmp_path / "out" / "clap_weights.pth", weights_only=True)
    whole = clap_model()
    whole.load_state_dict(theirs["clap_audio"], strict=True)  # as that loader insists
    assert same(
        {name: t for name, t in whole.state_dict().items() if name.startswith("text_")},
        {name: t for name, t in clap.state_dict().items() if name.startswith("text_")},
    )
    assert theirs["audio_adapter"].keys() == {"weight"}


def test_a_model_of_ours_survives_the_release_with_its_own_way_of_filling_clips(encoder: Any, tmp_path: Path) -> None:
    parts = Parts(encoder.model.config, encoder.model.state_dict(), encoder.processor)
    write_clap(tmp_path / "clap")
    with pytest.raises(ModelError, match="straight into the joint space"):
        convert.write_release(parts, tmp_path / "out", tmp_path, clap=tmp_path / "clap")
    assert convert._clap_settings(tmp_path / "clap").padding == "pad"
    encoder.processor.feature_extractor.save_pretrained(tmp_path / "own")
    assert convert._clap_settings(tmp_path / "own").padding == "repeat"


def test_the_release_has_the_temperature_of_the_code_that_trained_it(tmp_path: Path) -> None:
    write_release(tmp_path / "BioVITA")
    parts = convert.read_release(tmp_path / "BioVITA", tmp_path)
    assert float(parts.tensors["logit_scale"]) == pytest.approx(math.log(1 / 0.2))


def test_claps_text_tower_is_left_out_and_counted(tmp_path: Path) -> None:
    release = write_release(tmp_path / "BioVITA")
    parts = convert.read_release(tmp_path / "BioVITA", tmp_path)
    rest = [name for name in release.clap.state_dict() if name.startswith(("text_", "logit_scale"))]
    assert parts.n_left_out == len(rest) > 20
    assert not [name for name in parts.tensors if name.startswith(("text_", "logit_scale_"))]


@pytest.mark.parametrize("wrap", ["", "module.", "state_dict"])
def test_a_training_checkpoint_is_the_release_that_was_made_of_it(tmp_path: Path, wrap: str) -> None:
    release = write_release(tmp_path / "BioVITA")
    content: dict[str, Any] = release.checkpoint()
    if wrap == "module.":
        content = {f"module.{name}": tensor for name, tensor in content.items()}
    if wrap == "state_dict":
        content = {"state_dict": content, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    torch.save(content, tmp_path / "epoch003.pth")
    parts = convert.read_checkpoint(
        tmp_path / "epoch003.pth", tmp_path, clip=tmp_path / "BioVITA", clap=tmp_path / "BioVITA"
    )
    released = convert.read_release(tmp_path / "BioVITA", tmp_path).tensors
    assert float(parts.tensors["logit_scale"]) == 1.25  # a checkpoint has its own
    assert same({**parts.tensors, "logit_scale": released["logit_scale"]}, released)


def test_a_checkpoint_without_an_adapter_projects_directly_if_the_widths_agree(tmp_path: Path) -> None:
    clip = write_open_clip(tmp_path / "clip")
    clap = write_clap(tmp_path / "clap", projection_dim=WIDTH)
    content = Release(clip, clap, torch.empty(0)).checkpoint()
    del content["audio_adapter.weight"]
    torch.save(content, tmp_path / "final.pth")
    parts = convert.read_checkpoint(tmp_path / "final.pth", tmp_path, clip=tmp_path / "clip", clap=tmp_path / "clap")
    assert parts.config.audio_projection == "direct"
    narrow = write_clap(tmp_path / "narrow")
    content = Release(clip, narrow, torch.empty(0)).checkpoint()
    del content["audio_adapter.weight"]
    torch.save(content, tmp_path / "lacking.pth")
    with pytest.raises(ModelError, match=r"lacking\.pth: lacks audio_adapter\.weight$"):
        convert.read_checkpoint(tmp_path / "lacking.pth", tmp_path, clip=tmp_path / "clip", clap=tmp_path / "narrow")


@pytest.mark.parametrize("projection_dim", [32, WIDTH])
def test_stage_1_starts_from_published_towers_and_a_seeded_adapter(
    clip: Path, tmp_path: Path, projection_dim: int
) -> None:
    clap = write_clap(tmp_path / "clap", projection_dim=projection_dim)
    parts, again, other = (convert.read_start(clip, tmp_path / "clap", tmp_path, seed=seed) for seed in (1, 1, 2))
    assert same(parts.tensors, again.tensors)
    ours = {name: tensor for name, tensor in parts.tensors.items() if name.startswith(convert.CLAP_OURS)}
    assert same(ours, {name: t for name, t in clap.state_dict().items() if name.startswith(convert.CLAP_OURS)})
    assert float(parts.tensors["logit_scale"]) == pytest.approx(math.log(1 / 0.07))
    if projection_dim == WIDTH:
        assert parts.config.audio_projection == "direct"
        assert same(parts.tensors, other.tensors)
    else:
        adapter = parts.tensors["audio_adapter.weight"]
        assert not torch.equal(adapter, other.tensors["audio_adapter.weight"])
        assert float(adapter.std()) == pytest.approx(32**-0.5, rel=0.1)  # as a new model's, `BioVitaModel`
    hub.write_parts(parts, tmp_path / "start", card="# start\n")
    model = hub.load_encoder(tmp_path / "start", device="cpu")
    vectors = model.embed_text(["owl", "frog"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_converted_folder_is_what_saving_it_again_gives(tmp_path: Path) -> None:
    write_release(tmp_path / "BioVITA")
    model: Any = hub.load(tmp_path / "BioVITA", device="cpu")
    hub.save(model, tmp_path / "again", card="")
    for name in ("model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (model.folder / name).read_bytes(), name


def test_half_precision_weights_become_float32(clip: Path) -> None:
    edit(clip / WEIGHTS, lambda tensors: tensors.update({name: t.half() for name, t in tensors.items()}))
    read = open_clip.read_open_clip(clip)
    assert {tensor.dtype for tensor in read.tensors.values()} == {torch.float32}


def test_a_missing_tensor_is_named_with_its_file(clip: Path) -> None:
    edit(clip / WEIGHTS, lambda tensors: tensors.__delitem__(KEY))
    with pytest.raises(ModelError, match=rf"open_clip_model\.safetensors: lacks {KEY}$"):
        open_clip.read_open_clip(clip)


def test_an_unexpected_tensor_is_named_with_its_file(clip: Path) -> None:
    edit(clip / WEIGHTS, lambda tensors: tensors.__setitem__("logit_bias", torch.zeros(1)))
    with pytest.raises(ModelError, match=r"open_clip_model\.safetensors: this model has no use for logit_bias$"):
        open_clip.read_open_clip(clip)


def test_of_many_names_five_are_said_and_the_rest_counted(clip: Path) -> None:
    edit_json(clip / "open_clip_config.json", lambda table: table["model_cfg"]["text_cfg"].update(layers=N_TEXT + 1))
    with pytest.raises(ModelError, match=r"lacks transformer\.resblocks\.2\.attn\.in_proj_bias, .* and 7 more$"):
        open_clip.read_open_clip(clip)


def test_a_misshapen_tensor_is_named_with_both_shapes(clip: Path) -> None:
    edit(clip / WEIGHTS, lambda tensors: tensors.__setitem__(KEY, tensors[KEY][:-1].contiguous()))
    with pytest.raises(ModelError, match=rf"{KEY} has the shape \[191, 64\], the configuration says \[192, 64\]"):
        open_clip.read_open_clip(clip)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_named(clip: Path, value: float) -> None:
    edit(clip / WEIGHTS, lambda tensors: tensors[KEY].__setitem__((3, 4), value))
    with pytest.raises(ModelError, match=rf"open_clip_model\.safetensors: {KEY} holds values that are not finite"):
        open_clip.read_open_clip(clip)


def test_whole_numbers_are_no_weights(clip: Path) -> None:
    edit(clip / WEIGHTS, lambda tensors: tensors.__setitem__(KEY, tensors[KEY].long()))
    with pytest.raises(ModelError, match=rf"{KEY} holds torch\.int64, the model torch\.float32"):
        open_clip.read_open_clip(clip)


def test_a_faulty_tensor_of_the_audio_tower_is_named_with_its_file(tmp_path: Path) -> None:
    write_release(tmp_path / "BioVITA")
    path = tmp_path / "BioVITA" / "clap_weights.pth"
    content = torch.load(path, weights_only=True)
    del content["clap_audio"]["audio_projection.linear1.bias"]
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"clap_weights\.pth: lacks clap_audio\.audio_projection\.linear1\.bias$"):
        hub.load(tmp_path / "BioVITA")
    assert not list((tmp_path / "home").rglob("model.safetensors"))  # a refused folder leaves nothing behind


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("vision_cfg", "timm_model_name", "vit_base_patch16_siglip_224", "vision_cfg.timm_model_name is 'vit_base"),
        ("text_cfg", "no_causal_mask", True, "text_cfg.no_causal_mask is True"),
        ("text_cfg", "pool_type", "last", "text_cfg.pool_type is 'last'"),
        ("text_cfg", "proj_bias", True, "text_cfg.proj_bias is True"),
        ("text_cfg", "hf_model_name", "xlm-roberta-base", "text_cfg.hf_model_name is 'xlm-roberta-base'"),
        ("vision_cfg", "layers", [3, 4, 6, 3], r"layers is \[3, 4, 6, 3\]; a plain ViT CLIP has a whole number"),
        ("vision_cfg", "patch_size", None, "patch_size is None; a plain ViT CLIP has a whole number"),
        ("vision_cfg", "head_width", 0, "head_width is 0"),
        ("vision_cfg", "head_width", 20, "a width of 64 with 3 heads"),
        ("text_cfg", "mlp_ratio", "4", "mlp_ratio '4' makes no tower"),
        ("text_cfg", "heads", 5, "a width of 64 with 5 heads"),
    ],
)
def test_another_architecture_is_refused_by_the_key_that_says_so(
    clip: Path, section: str, key: str, value: object, said: str
) -> None:
    edit_json(clip / "open_clip_config.json", lambda table: table["model_cfg"][section].update({key: value}))
    with pytest.raises(ModelError, match=said) as error:
        open_clip.read_open_clip(clip)
    assert str(error.value).startswith(str(clip / "open_clip_config.json"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("interpolation", "bilinear"),
        ("resize_mode", "squash"),
        ("mode", "L"),
        ("size", 48),
        ("mean", [0.5]),
        ("std", None),
    ],
)
def test_pictures_that_we_would_prepare_otherwise_are_refused(clip: Path, key: str, value: object) -> None:
    edit_json(clip / "open_clip_config.json", lambda table: table["preprocess_cfg"].update({key: value}))
    with pytest.raises(ModelError, match=rf"open_clip_config\.json: preprocess_cfg\.{key} is "):
        open_clip.read_open_clip(clip)


def test_keys_that_change_nothing_are_no_reason_to_refuse(clip: Path) -> None:
    def idle(table: dict[str, Any]) -> None:
        table["model_cfg"]["vision_cfg"] |= {"patch_dropout": 0.5, "pool_type": "tok", "ls_init_value": None}
        table["model_cfg"]["text_cfg"] |= {"pool_type": "argmax", "proj_bias": False}
        table["model_cfg"]["custom_text"] = False
        table["preprocess_cfg"] |= {"size": [32, 32], "mode": "RGB", "fill_color": 0}

    before = open_clip.read_open_clip(clip)
    edit_json(clip / "open_clip_config.json", idle)
    assert same(open_clip.read_open_clip(clip).tensors, before.tensors)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model_cfg": 3}', '{"model_cfg": {"embed_dim": 3, "vision_cfg": {}}}']
)
def test_a_broken_configuration_is_a_users_error(clip: Path, text: str) -> None:
    (clip / "open_clip_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"open_clip_config\.json: "):
        open_clip.read_open_clip(clip)


@pytest.mark.parametrize("name", ["open_clip_config.json", WEIGHTS])
def test_a_missing_file_is_named(clip: Path, name: str) -> None:
    (clip / name).unlink()
    with pytest.raises(ModelError, match=f"lacks {name}"):
        open_clip.read_open_clip(clip)


def test_a_damaged_safetensors_file_is_a_users_error(clip: Path) -> None:
    (clip / WEIGHTS).write_bytes((clip / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"open_clip_model\.safetensors: cannot be read as safetensors"):
        open_clip.read_open_clip(clip)


def test_towers_alone_are_no_biovita_model_and_the_error_says_what_to_do(clip: Path) -> None:
    with pytest.raises(ModelError, match="image and text towers alone; `biovita model convert --clap`"):
        hub.load_encoder(clip)


def test_claps_fused_tower_is_refused(clip: Path, tmp_path: Path) -> None:
    write_clap(tmp_path / "clap")
    edit_json(tmp_path / "clap" / "config.json", lambda table: table["audio_config"].update(enable_fusion=True))
    with pytest.raises(ModelError, match="enable_fusion is true"):
        convert.read_start(clip, tmp_path / "clap", tmp_path, seed=1)


def test_another_model_is_not_taken_for_clap(clip: Path, tmp_path: Path) -> None:
    write_clap(tmp_path / "clap")
    edit_json(tmp_path / "clap" / "config.json", lambda table: table.update(model_type="bert"))
    with pytest.raises(ModelError, match=r"config\.json: model_type is 'bert', not 'clap'"):
        convert.read_start(clip, tmp_path / "clap", tmp_path, seed=1)


def test_a_log_mel_of_another_length_is_refused(clip: Path, tmp_path: Path) -> None:
    write_clap(tmp_path / "clap")
    edit_json(tmp_path / "clap" / "preprocessor_config.json", lambda table: table.update(max_length_s=5))
    with pytest.raises(ModelError, match=r"501 frames at 48000 Hz; BioVITA has 1001 at 48000 Hz"):
        convert.read_start(clip, tmp_path / "clap", tmp_path, seed=1)
