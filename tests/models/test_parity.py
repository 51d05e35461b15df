"""PEERS: the vectors that the published weights mean, by open_clip and transformers; here at a small size.

The same at the size of the published models, and MTEB's wrapper: benchmarks/parity.py, docs/results/parity.md.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from biovita.media.image import write_image
from biovita.models.hub import load
from biovita.models.mel import LogMel
from biovita.models.peers import open_peer

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tools"))

from golden import pictures, sounds  # noqa: E402

PEERS = Path(os.environ.get("PEERS", ROOT / ".venv" / "peers"))
MOST = 2e-6  # between components of unit vectors; what is measured is about 5e-7

CLIP = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49_408, "width": 64, "heads": 4, "layers": 3},
}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
AUDIO = {"patch_embeds_hidden_size": 16, "depths": [1, 1, 2, 1], "num_attention_heads": [1, 2, 4, 8]}
CLAP = {"audio_config": {**AUDIO, "hidden_size": 128}, "text_config": TEXT, "projection_dim": 32}
NAMES = ("Turdus merula", "Common Blackbird", "", "ROSE-BREASTED GROSBEAK", "Größe", "x" * 300, "  two   spaces 12",
         "Steller\u2019s Jay", "Jay &amp; Magpie", "Gr\u00c3\u00b6e")  # fmt: skip

pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PEERS / "open_clip").is_dir(), reason=f"no open_clip in {PEERS}, where the Makefile puts it"
    ),
]


@dataclass(frozen=True)
class Found:
    """A folder in the layout of the release, what the peers made of things with it, and these things."""

    folder: Path
    peer: dict[str, np.ndarray]
    things: dict[str, list[Any]]
    home: Path


@pytest.fixture(scope="module")
def found(once: Any) -> Found:
    """Let a process of their own, which has the peers, make the folder and embed with it."""

    def make(home: Path) -> None:
        (home / "clip.json").write_text(json.dumps(CLIP))
        items: dict[str, list[str]] = {"texts": list(NAMES), "images": [], "clips": []}
        for name, picture in pictures().items():
            items["images"].append(str(home / f"{name}.png"))
            write_image(home / f"{name}.png", picture)
        for name, (wave, _) in sounds().items():
            items["clips"].append(str(home / f"{name}.npy"))
            np.save(home / f"{name}.npy", np.resize(wave, 480_000).astype(np.float32))
        (home / "items.json").write_text(json.dumps(items))
        line = [sys.executable, str(ROOT / "benchmarks" / "parity_peer.py"), "release", "make", "open_clip", "clap"]
        options = ["--model", "clip.json", "--clap", json.dumps(CLAP), "--items", "items.json", "--out", "out"]
        environment = {**os.environ, "PYTHONPATH": str(PEERS)}
        done = subprocess.run(
            line + options, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=200
        )
        assert done.returncode == 0, done.stderr

    home = once("parity", make)
    peer = {}
    for job in ("open_clip", "clap"):
        with np.load(home / "out" / f"{job}.npz") as arrays:
            peer |= {name: arrays[name] for name in arrays.files}
    items = json.loads((home / "items.json").read_text())
    clips = [(np.load(path), 48_000) for path in items["clips"]]
    return Found(home / "release", peer, {"audio": clips, "image": items["images"], "text": items["texts"]}, home)


@pytest.fixture(scope="module")
def ours(found: Found) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setenv("BIOVITA_HOME", str(found.home / "cache"))
    yield load(found.folder, device="cpu")
    patch.undo()


@pytest.mark.parametrize("modality", ["audio", "image", "text"])
def test_every_tower_gives_the_vectors_that_the_peer_gives(ours: Any, found: Found, modality: str) -> None:
    theirs, things = found.peer[modality], found.things[modality]
    how = {"window": "centre"} if modality == "audio" else {}  # all 10 s of the clip
    vectors = getattr(ours, f"embed_{modality}")(things, **how)
    assert abs(vectors - theirs).max() < MOST
    alike = theirs @ theirs.T - 2 * np.eye(len(theirs))
    assert alike.max() < 0.999, "the peer's vectors must differ, or the test could not fail"


def test_pixels_are_those_of_open_clips_evaluation_transform_to_the_last_bit(ours: Any, found: Found) -> None:
    squares = np.stack([ours.square(path) for path in found.things["image"]])
    np.testing.assert_array_equal(ours.processor.pixels(torch.from_numpy(squares)), found.peer["pixels"])


def test_tokens_are_those_of_open_clips_tokenizer(ours: Any, found: Found) -> None:
    for text, theirs in zip(found.things["text"], found.peer["tokens"], strict=True):
        tokens = ours.processor.tokens([text])["input_ids"][0].numpy()
        np.testing.assert_array_equal(tokens, theirs[: len(tokens)], err_msg=text)
        assert not theirs[len(tokens) :].any()


def test_the_log_mel_is_the_clap_extractors(ours: Any, found: Found) -> None:
    theirs = found.peer["log_mel"]
    log_mel = LogMel(ours.processor.feature_extractor)
    waves = torch.from_numpy(np.stack([wave for wave, _ in found.things["audio"]]))
    np.testing.assert_allclose(log_mel(waves).numpy(), theirs, atol=5e-4, rtol=0)


def test_the_towers_of_bioclip_alone_give_the_same_vectors(found: Found, tmp_path: Path) -> None:
    for path in found.folder.iterdir():
        if path.is_file() and path.name not in ("clap_weights.pth", "config.json"):
            (tmp_path / path.name).symlink_to(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOVITA_HOME", str(found.home / "cache"))
        peer = open_peer(tmp_path, device="cpu")
    for modality in peer.modalities:
        vectors = getattr(peer, f"embed_{modality}")(found.things[modality])
        assert abs(vectors - found.peer[modality]).max() < MOST
