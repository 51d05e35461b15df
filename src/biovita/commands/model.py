"""`biovita model convert|push`: published weights to ours and back, and a model folder to the hub."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from biovita.config import write_run
from biovita.errors import ConfigError
from biovita.log import SETTINGS, emit, say


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Turn published weights into a BioVITA model folder, or a model into a layout that others read."""

    source: Positional[str]
    """Model folder or hub name, ours or a published one; or a checkpoint (.pth) of the released training code."""
    out: Path
    """The new folder."""
    to: Literal["biovita", "open_clip", "official"] = "biovita"
    """`biovita`: ours; `open_clip`: image and text towers alone; `official`: the layout of BioVITA's release."""
    clip: str | None = None
    """Folder or hub name of the towers that a checkpoint started from (BioCLIP 2), for its sizes and tokenizer."""
    clap: str | None = None
    """Folder or hub name of CLAP (laion/clap-htsat-unfused): its audio tower, where SOURCE has none, to start stage 1;
    its text tower, which the official loader wants, with `--to official`; a checkpoint's audio sizes."""
    seed: int = 1
    """Of the adapter that stage 1 starts from; converted models have one already."""


@dataclass(frozen=True, kw_only=True)
class Push:
    """Upload a model folder to the Hugging Face hub, after loading it as everyone will."""

    folder: Positional[Path]
    """A BioVITA model folder with its model card."""
    name: Positional[str]
    """owner/name; made if it does not exist."""
    private: bool = False
    """Make the repository private."""


def run_convert(config: Convert) -> None:
    """Write the new folder, whole or not at all, and say what was left out."""
    if config.out.exists():
        raise ConfigError(f"{config.out}: exists; remove it, or choose another --out")
    if config.to == "official" and config.clap is None:
        raise ConfigError(
            "--to official: name CLAP's folder with --clap; the official loader wants its text tower, which BioVITA's "
            "models do not have"
        )
    from biovita.identify.labels import LABELS
    from biovita.models import convert, hub

    config.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.out.parent, prefix=f".{config.out.name}.part-") as folder:
        scratch = Path(folder)
        clip = hub.find_folder(config.clip) if config.clip else None
        clap = hub.find_folder(config.clap) if config.clap else None
        parts = hub.read(config.source, scratch, clip=clip, clap=clap, seed=config.seed)
        part = scratch / "model"
        if config.to == "biovita":
            hub.write_parts(parts, part, card=hub.card_of(config.out.name, config.source))
        elif config.to == "open_clip":
            convert.write_open_clip(parts, part)
        else:
            assert clap
            convert.write_release(parts, part, scratch, clap=clap)
        if (labels := Path(config.source) / LABELS).is_file():
            shutil.copyfile(labels, part / LABELS)
        write_run(part, config, n_left_out=parts.n_left_out)
        part.rename(config.out)
    if parts.n_left_out:
        say(f"{config.out}: {parts.n_left_out:,} tensors of CLAP's text tower left out; no sound goes through them")
    if config.to == "open_clip":
        say(f"{config.out}: image and text towers; open_clip has no place for the audio tower")
    if SETTINGS.json:
        emit({"out": str(config.out), "to": config.to, "n_tensors": len(parts.tensors), "n_left_out": parts.n_left_out})
    say(f"{config.out}: {config.source} as {config.to}")


def run_push(config: Push) -> None:
    """Verify and upload."""
    from biovita.models.hub import push

    url = push(config.folder, config.name, private=config.private)
    if SETTINGS.json:
        emit({"folder": str(config.folder), "url": url})
    say(f"{config.folder}: pushed to {url}")
