"""Published models of two towers, and MTEB's wrappers, through the same protocol as ours."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import ClapFeatureExtractor, ClapModel, CLIPModel, RobertaTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from biovita.errors import MediaError, ModelError
from biovita.media.audio import write_audio
from biovita.models.encoder import Encoder
from biovita.models.mel import LogMel
from biovita.models.peers import MtebPeer, Peer, open_peer
from biovita.models.processor import fit_tokenizer
from layouts import WIDTH, clap_model, clip_model, write_clap, write_open_clip

NAMES = ("frog", "Turdus merula", "owl")
MOST = 2e-6


def wave(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(48_000 * seconds)).astype(np.float32)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def write_words(folder: Path) -> None:
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *map(chr, range(ord("a"), ord("z") + 1))]
    RobertaTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[]).save_pretrained(folder)


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers") / "clap"
    write_clap(folder)
    write_words(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers") / "clip"
    tokenizer = fit_tokenizer(NAMES, vocab_size=530)
    clip_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    square = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square).save_pretrained(folder)
    return folder


def unit(output: Any) -> np.ndarray:
    return functional.normalize(output.pooler_output, dim=-1).detach().numpy()


def test_clap_hears_and_reads_as_transformers_does(clap: Path) -> None:
    peer, theirs = open_peer(clap, device="cpu"), ClapModel.from_pretrained(clap).eval()
    waves = [wave(10, seed=n) for n in range(3)]
    settings = ClapFeatureExtractor.from_pretrained(clap)
    log_mel = [settings(one, sampling_rate=48_000, return_tensors="pt")["input_features"] for one in waves]
    words = RobertaTokenizer.from_pretrained(clap)(list(NAMES), padding=True, return_tensors="pt")
    assert peer.modalities == ("audio", "text")
    found = peer.embed_audio([(one, 48_000) for one in waves], window="centre")
    assert abs(found - unit(theirs.get_audio_features(input_features=torch.cat(log_mel)))).max() < MOST
    assert abs(peer.embed_text(NAMES) - unit(theirs.get_text_features(**words))).max() < MOST


@pytest.mark.parametrize("seconds", [0.3, 3, 4.9, 6, 10])
@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
def test_a_short_clip_is_filled_as_the_clap_extractor_fills_it(clap: Path, seconds: float, padding: str) -> None:
    processor = open_peer(clap, device="cpu").processor
    processor.feature_extractor.padding = padding
    short = wave(seconds)
    theirs = processor.feature_extractor(short, sampling_rate=48_000, return_tensors="pt")["input_features"][0]
    filled = torch.from_numpy(processor.fill(short))[None]
    assert abs(LogMel(processor.feature_extractor)(filled) - theirs).max() < 5e-4


def test_clip_sees_and_reads_as_transformers_does(clip: Path) -> None:
    peer, theirs = open_peer(clip, device="cpu"), CLIPModel.from_pretrained(clip).eval()
    pictures = [picture(40, 32), picture(32, 52), picture(64, 64)]
    pixels = CLIPImageProcessorPil.from_pretrained(clip)(pictures, return_tensors="pt")["pixel_values"]
    words = peer.processor.tokenizer(list(NAMES), padding=True, return_tensors="pt")
    assert peer.modalities == ("image", "text")
    assert abs(peer.embed_image(pictures) - unit(theirs.get_image_features(pixel_values=pixels))).max() < MOST
    assert abs(peer.embed_text(NAMES) - unit(theirs.get_text_features(**words))).max() < MOST


def test_towers_in_open_clips_layout_are_those_that_were_written(tmp_path: Path) -> None:
    theirs = write_open_clip(tmp_path / "bioclip")
    peer = open_peer(tmp_path / "bioclip", device="cpu")
    tokens = peer.processor.tokens(NAMES)
    found = peer.embed_text(NAMES)
    assert (peer.name, peer.modalities, found.shape) == ("bioclip", ("image", "text"), (3, WIDTH))
    assert abs(found - unit(theirs.get_text_features(**tokens))).max() < MOST


@pytest.mark.parametrize(("name", "lacking"), [("clap", "image"), ("clip", "audio")])
def test_a_peer_says_which_towers_it_has_not(request: pytest.FixtureRequest, name: str, lacking: str) -> None:
    peer = open_peer(request.getfixturevalue(name), device="cpu")
    things = [(wave(1), 48_000)] if lacking == "audio" else [picture(40, 40)]
    with pytest.raises(ModelError, match=f"{name}: has no {lacking} tower, only (audio|image) and text"):
        getattr(peer, f"embed_{lacking}")(things)


def test_files_are_read_by_our_own_rules_and_bad_ones_are_refused(clap: Path, tmp_path: Path) -> None:
    peer = open_peer(clap, device="cpu")
    write_audio(tmp_path / "a.wav", wave(3), 48_000)
    (tmp_path / "bad.mp3").write_text("<html>")
    one, same = peer.embed_audio([tmp_path / "a.wav", tmp_path / "a.wav"], window="windows")
    np.testing.assert_array_equal(one, same)
    with pytest.raises(MediaError, match=r"bad\.mp3"):
        peer.embed_audio([tmp_path / "bad.mp3"])


def test_weights_and_settings_are_in_the_fingerprint(clap: Path, clip: Path, tmp_path: Path) -> None:
    other = tmp_path / "clap"
    shutil.copytree(clap, other)
    table = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**table, "frequency_min": 100}))
    one, two, three = (open_peer(folder, device="cpu") for folder in (clap, other, clip))
    assert one.weights_sha256 == two.weights_sha256 != three.weights_sha256
    assert len({one.fingerprint("onset"), one.fingerprint("windows"), two.fingerprint("onset")}) == 3


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", {"model_type": "bert"}, "model_type is 'bert'"),
        ("preprocessor_config.json", {"sampling_rate": 44_100}, "441000 samples at 44100 Hz"),
        ("preprocessor_config.json", {"max_length_s": 5}, "240000 samples at 48000 Hz"),
        ("preprocessor_config.json", None, "lacks preprocessor_config.json"),
        ("model.safetensors", None, "lacks model.safetensors or pytorch_model.bin"),
        ("tokenizer.json", None, "lacks tokenizer.json or vocab.json"),
        ("config.json", None, "lacks config.json"),
    ],
)
def test_a_folder_that_is_no_whole_clap_is_refused(
    clap: Path, tmp_path: Path, file: str, change: dict[str, Any] | None, said: str
) -> None:
    folder = tmp_path / "clap"
    shutil.copytree(clap, folder)
    if change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **change}))
    with pytest.raises(ModelError, match=said):
        open_peer(folder)


def test_fused_clap_is_refused(tmp_path: Path) -> None:
    model = clap_model()
    model.config.audio_config.enable_fusion = True
    ClapModel(model.config).save_pretrained(tmp_path)
    ClapFeatureExtractor(frequency_min=50).save_pretrained(tmp_path)
    write_words(tmp_path)
    with pytest.raises(ModelError, match="enable_fusion is true"):
        open_peer(tmp_path)


@pytest.mark.parametrize(
    "change", [{"resample": 2}, {"do_center_crop": False}, {"crop_size": {"height": 28, "width": 28}}]
)
def test_pictures_prepared_in_another_way_are_refused(clip: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(clip, folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match="cut to one square"):
        open_peer(folder)


def test_weights_that_are_not_of_this_size_are_refused(clap: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clap"
    shutil.copytree(clap, folder)
    table = json.loads((folder / "config.json").read_text())
    table["text_config"]["vocab_size"] += 1
    (folder / "config.json").write_text(json.dumps(table))
    with pytest.raises(ModelError, match=r"word_embeddings\.weight has the shape"):
        open_peer(folder)


class Wrapper:
    """What MTEB's protocol asks of a model, around one of ours; it reads its input as MTEB's wrappers do."""

    def __init__(self, encoder: Encoder, modalities: tuple[str, ...] = ("audio", "image", "text")) -> None:
        self.encoder = encoder
        self.mteb_model_meta = SimpleNamespace(name="owner/model", revision="1", modalities=list(modalities))
        self.seen: list[Any] = []

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        [modality] = inputs.dataset.features
        collate = inputs.collate_fn
        inputs.collate_fn = lambda rows: collate([dict(row) for row in rows])  # wrappers put their own here
        found = []
        for batch in inputs:
            things = batch[modality]
            if modality == "audio":
                things = [(audio["array"], audio["sampling_rate"]) for audio in things]
            self.seen.append(len(things))
            found.append(torch.from_numpy(getattr(self.encoder, f"embed_{modality}")(things)))
        return 3 * torch.cat(found)  # not all of them normalise


def test_an_mteb_wrapper_gives_the_vectors_of_its_model(encoder: Encoder, tmp_path: Path) -> None:
    wrapper = Wrapper(encoder)
    peer = MtebPeer(wrapper)
    write_audio(tmp_path / "a.flac", wave(12), 48_000)
    sounds = [tmp_path / "a.flac", (wave(3, seed=1), 48_000)]
    pictures = [picture(90, 64), picture(64, 64)]
    assert abs(peer.embed_audio(sounds) - encoder.embed_audio(sounds)).max() < MOST
    assert abs(peer.embed_image(pictures) - encoder.embed_image(pictures)).max() < MOST
    assert abs(peer.embed_text(NAMES, batch_size=2) - encoder.embed_text(NAMES)).max() < MOST
    assert wrapper.seen == [2, 2, 2, 1]


def test_an_mteb_wrapper_is_asked_only_for_what_it_can(encoder: Encoder, tmp_path: Path) -> None:
    peer = MtebPeer(Wrapper(encoder, ("text", "image")))
    assert (peer.name, peer.modalities) == ("owner/model", ("image", "text"))
    with pytest.raises(ModelError, match="owner/model: has no audio tower, only image and text"):
        peer.embed_audio([(wave(1), 48_000)])
    with pytest.raises(ModelError, match="chooses its seconds itself"):
        MtebPeer(Wrapper(encoder)).embed_audio([(wave(1), 48_000)], window="windows")
    with pytest.raises(MediaError, match="no_samples"):
        MtebPeer(Wrapper(encoder)).embed_audio([(wave(0), 48_000)])
    assert isinstance(peer, MtebPeer)
    assert not isinstance(peer, Peer)


def test_an_mteb_wrapper_that_gives_nonsense_is_refused(encoder: Encoder) -> None:
    wrapper = Wrapper(encoder)
    wrapper.encode = lambda inputs, **how: torch.full((len(inputs.dataset), 4), float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        MtebPeer(wrapper).embed_text(NAMES)
