"""What `benchmarks/parity.py` and `tests/models/test_parity.py` run in a Python that has the peers, without biovita.

    python benchmarks/parity_peer.py FOLDER make
    python benchmarks/parity_peer.py FOLDER open_clip clap mteb --items ITEMS --out OUT

FOLDER has the layout of the hub repository `risashinoda/BioVITA`, and `clap/` in it that of `laion/clap-htsat-unfused`.
ITEMS is a JSON file: `texts`; `images`, paths; `clips`, paths of .npy (10 s at 48 kHz, mono); for MTEB `recordings`:
`path`, `wave` (.npy, whole, as we read it), `samples` (.npy, as the file has it) at `rate_hz`. The answer is
OUT/JOB.npz.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

RATE_HZ, N_SAMPLES = 48_000, 480_000
BATCH = 8
BIOVITA, CLAP = "risashinoda/BioVITA", "laion/clap-htsat-unfused"
WRAPPER = "mteb.models.model_implementations.biovita_models"
OPERATORS: list[torch.library.Library] = []  # gone with these objects


def mend_torchvision() -> None:
    """Let torchvision be imported beside a build of torch that its own operators do not fit; nothing here uses them."""
    try:
        import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            OPERATORS.append(torch.library.Library("torchvision", "FRAGMENT"))
            OPERATORS[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except ImportError:
        return


def wake(state: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Draw weights with which every layer has a say, and different inputs get different vectors.

    As they are initialised, towers of this depth send nearly every input to one and the same vector, and a comparison
    of such vectors could hardly fail.
    """
    random = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=random)
        if not tensor.is_floating_point() or name.startswith("logit_scale"):
            drawn[name] = tensor
        elif name.endswith("running_mean"):  # of dB
            drawn[name] = -40 + 5 * noise
        elif name.endswith("running_var"):
            drawn[name] = 300 + 30 * noise
        elif tensor.ndim >= 2:
            drawn[name] = noise / (tensor[0].numel() if name != "positional_embedding" else 1) ** 0.5
        else:
            drawn[name] = 0.1 * noise + (1 if name.endswith("weight") else 0)
    return drawn


def make(folder: Path, model: str, clap: dict[str, Any], seed: int) -> None:
    """Write a folder in the layout of BioVITA's hub repository, with random weights.

    Args:
        folder: of the new files.
        model: a name that open_clip knows, or a JSON file of an open_clip model.
        clap: arguments of `ClapConfig` that differ from the published ones.
        seed: of the weights.
    """
    open_clip, transformers = import_module("open_clip"), import_module("transformers")
    name = register(open_clip, model)
    clip = open_clip.create_model(name).eval()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(wake(clip.state_dict(), seed), folder / "open_clip_pytorch_model.bin")
    picture = {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": picture}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    bpe = open_clip.SimpleTokenizer()
    merges = sorted(bpe.bpe_ranks, key=bpe.bpe_ranks.__getitem__)
    ends = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}  # here, and in published folders
    vocabulary = {ends.get(word, word): n for word, n in bpe.encoder.items()}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(folder)

    settings = transformers.ClapConfig(**clap)
    sound = transformers.ClapModel(settings)
    sound.load_state_dict(wake(sound.state_dict(), seed + 1))
    width = clip.state_dict()["text_projection"].shape[1]
    adapter = wake({"weight": torch.empty(width, settings.projection_dim)}, seed + 2)
    torch.save({"clap_audio": sound.state_dict(), "audio_adapter": adapter}, folder / "clap_weights.pth")
    sound.save_pretrained(folder / "clap")
    transformers.ClapFeatureExtractor(
        feature_size=64, frequency_min=50, frequency_max=14_000, padding="repeatpad", truncation="rand_trunc"
    ).save_pretrained(folder / "clap")
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(set(bpe.byte_encoder.values()))]
    reader = transformers.RobertaTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[])
    reader.save_pretrained(folder / "clap")
    if clap:  # the published folder has none, and its sizes are those that CLAP was published with
        shutil.copy(folder / "clap" / "config.json", folder)


def register(open_clip: Any, model: str) -> str:
    """Return the name of an open_clip model, after adding it where a JSON file describes it."""
    if not model.endswith(".json"):
        return model
    open_clip.add_model_config(model)
    return Path(model).stem


def run_open_clip(folder: Path, items: dict[str, Any]) -> dict[str, np.ndarray]:
    """Embed by open_clip's own functions: its evaluation transform, tokenizer and towers."""
    open_clip = import_module("open_clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        described = Path(scratch) / "parity.json"
        described.write_text(json.dumps(config["model_cfg"]))
        name, picture = register(open_clip, str(described)), config["preprocess_cfg"]
    model, _, transform = open_clip.create_model_and_transforms(
        name,
        pretrained=str(folder / "open_clip_pytorch_model.bin"),
        image_mean=tuple(picture["mean"]),
        image_std=tuple(picture["std"]),
        image_interpolation=picture["interpolation"],
        image_resize_mode=picture["resize_mode"],
    )
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    pixels = torch.stack([transform(Image.open(path).convert("RGB")) for path in items["images"]])
    tokens = tokenizer(items["texts"])
    return {
        "pixels": pixels.numpy(),
        "tokens": tokens.numpy(),
        "image": in_batches(model.encode_image, pixels),
        "text": in_batches(model.encode_text, tokens),
    }


def run_clap(folder: Path, items: dict[str, Any]) -> dict[str, np.ndarray]:
    """Embed by transformers: `ClapFeatureExtractor` on 10 s, `ClapModel`, the adapter."""
    transformers = import_module("transformers")
    settings = transformers.ClapFeatureExtractor.from_pretrained(folder / "clap")
    model = transformers.ClapModel.from_pretrained(folder / "clap").eval()
    adapter = torch.load(folder / "clap_weights.pth", weights_only=True)["audio_adapter"]["weight"]
    waves = [np.load(path) for path in items["clips"]]
    log_mel = torch.cat(
        [settings(wave, sampling_rate=RATE_HZ, return_tensors="pt")["input_features"] for wave in waves]
    )

    def embed(batch: torch.Tensor) -> torch.Tensor:
        features = model.get_audio_features(input_features=batch, is_longer=torch.zeros(len(batch), 1)).pooler_output
        return features @ adapter.T

    return {"log_mel": log_mel[:, 0].numpy(), "audio": in_batches(embed, log_mel)}


def run_mteb(folder: Path, items: dict[str, Any]) -> dict[str, np.ndarray]:
    """Embed by MTEB's wrapper as it is installed, from a hub cache that holds the folder under the published names.

    Its picture transform is the one for training, with a random crop: `image` is made by it, seeded, and
    `image_same_pixels` by open_clip's evaluation transform in its place. Recordings come as samples that we read
    (`audio`), as the samples of the file (`audio_same_samples`) and as MTEB's decoder reads the file (`audio_file`, not
    a number where it does not).
    """
    open_clip, published = import_module("open_clip"), import_module(WRAPPER)
    hub_cache(folder, Path(os.environ["HF_HUB_CACHE"]), published)
    model = published.BioVITAWrapper(BIOVITA, revision=published.biovita.revision, device="cpu")
    torch.manual_seed(1)
    pictures = [Image.open(path) for path in items["images"]]
    found = {"text": encode(model, "text", items["texts"]), "image": encode(model, "image", pictures)}
    colours = json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]
    model.image_preprocess = open_clip.image_transform(
        224, is_train=False, mean=colours["mean"], std=colours["std"], interpolation="bicubic", resize_mode="shortest"
    )
    found["image_same_pixels"] = encode(model, "image", pictures)
    read: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
        "audio": lambda item: {"array": np.load(item["wave"]), "sampling_rate": RATE_HZ},
        "audio_same_samples": lambda item: {"array": np.load(item["samples"]), "sampling_rate": item["rate_hz"]},
        "audio_file": lambda item: decode(item["path"]),
    }
    for name, how in read.items():
        things = [how(item) for item in items["recordings"]]
        there = [n for n, thing in enumerate(things) if thing is not None]
        found[name] = np.full((len(things), model.embed_dim), np.nan, np.float32)
        found[name][there] = encode(model, "audio", [things[n] for n in there])
    return found


def decode(path: str) -> dict[str, Any] | None:
    """Decode as MTEB's tasks do: torchcodec, all channels, at the file's own rate; None where it gives up."""
    decoders = import_module("torchcodec.decoders")
    try:
        samples = decoders.AudioDecoder(path).get_all_samples()
    except RuntimeError:
        return None
    return {"array": samples.data.numpy(), "sampling_rate": samples.sample_rate}


def encode(model: Any, modality: str, things: list[Any]) -> np.ndarray:
    """Call an MTEB model as its tasks do."""

    class Rows(torch.utils.data.Dataset):
        features = {modality: None}

        def __len__(self) -> int:
            return len(things)

        def __getitem__(self, n: int) -> dict[str, Any]:
            return {modality: things[n]}

    loader = torch.utils.data.DataLoader(
        Rows(), batch_size=BATCH, collate_fn=lambda rows: {modality: [row[modality] for row in rows]}
    )
    how: dict[str, Any] = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}
    return model.encode(loader, **how, show_progress_bar=False)


def hub_cache(folder: Path, home: Path, published: Any) -> None:
    """Lay the folder out as the hub's cache would hold the two repositories that MTEB's wrapper asks for."""
    for name, revision, source in (
        (BIOVITA, published.biovita.revision, folder),
        (CLAP, published.CLAP_REVISION, folder / "clap"),
    ):
        snapshot = home / f"models--{name.replace('/', '--')}" / "snapshots" / str(revision)
        snapshot.mkdir(parents=True)
        for path in source.iterdir():
            if path.is_file():
                (snapshot / path.name).symlink_to(path.resolve())


@torch.inference_mode()
def in_batches(embed: Any, rows: torch.Tensor) -> np.ndarray:
    return torch.cat([torch.nn.functional.normalize(embed(part), dim=-1) for part in rows.split(BATCH)]).numpy()


def versions() -> str:
    """Name what is installed here and made the numbers."""
    found = [f"Python {platform.python_version()}"]
    for name in ("torch", "torchvision", "torchaudio", "torchcodec", "transformers", "open_clip_torch", "mteb"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("jobs", nargs="+", choices=("make", "open_clip", "clap", "mteb"))
    parser.add_argument("--items", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", default="ViT-L-14", help="a name of open_clip's, or a JSON file in its words")
    parser.add_argument("--clap", default="{}", help="JSON: what differs from the published ClapConfig")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    mend_torchvision()
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"HF_HUB_CACHE": home, "HF_HUB_OFFLINE": "1"}  # before the hub's library is imported
        for job in args.jobs:
            if job == "make":
                make(args.folder, args.model, json.loads(args.clap), args.seed)
                continue
            run = {"open_clip": run_open_clip, "clap": run_clap, "mteb": run_mteb}[job]
            found = run(args.folder, json.loads(args.items.read_text()))
            args.out.mkdir(parents=True, exist_ok=True)
            np.savez(args.out / f"{job}.npz", versions=np.array(versions()), **found)


if __name__ == "__main__":
    main()
