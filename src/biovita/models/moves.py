"""Tensors by name: what they are called elsewhere, and whether a file holds exactly what it must.

A foreign layout is a list of moves, one for each of its tensors, so both directions and the shapes that a file must
have follow from one table.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from biovita.errors import ModelError
from biovita.files import home, sha256_file
from biovita.models.pickles import to_safetensors

Tensors = dict[str, torch.Tensor]
N_NAMED = 5  # tensors that an error lists


class Move(NamedTuple):
    """One tensor there, and what it is here: three where attention's projections are stored as one."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False


def bring(theirs: Mapping[str, torch.Tensor], moves: list[Move]) -> Tensors:
    """Turn their tensors into ours."""
    ours = {}
    for move in moves:
        tensor = theirs[move.theirs]
        parts = tensor.chunk(len(move.ours)) if len(move.ours) > 1 else [tensor]
        for name, part in zip(move.ours, parts, strict=True):
            ours[name] = (part.T if move.transposed else part).contiguous()
    return ours


def send(ours: Mapping[str, torch.Tensor], moves: list[Move]) -> Tensors:
    """Turn our tensors into theirs: the inverse of `bring`, bit for bit."""
    theirs = {}
    for move in moves:
        parts = [ours[name] for name in move.ours]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        theirs[move.theirs] = (tensor.T if move.transposed else tensor).contiguous()
    return theirs


def checked(path: Path, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> Tensors:
    """Return a file's tensors in the types that the model has, if they are exactly those that it wants.

    Args:
        path: the file, for the message.
        found: what it holds.
        expected: shapes and types; the numbers do not matter and may be missing (device meta).

    Raises:
        ModelError: a tensor is missing, unexpected, of another shape or kind, or not finite.
    """
    for what, names in (("lacks", expected.keys() - found.keys()), ("has no use for", found.keys() - expected.keys())):
        if names:
            more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
            subject = "" if what == "lacks" else "this model "
            raise ModelError(f"{path}: {subject}{what} {', '.join(sorted(names)[:N_NAMED])}{more}")
    right = {}
    for name, want in expected.items():
        tensor = found[name]
        if tensor.shape != want.shape:
            raise ModelError(
                f"{path}: {name} has the shape {list(tensor.shape)}, the configuration says {list(want.shape)}"
            )
        if tensor.is_floating_point() != want.is_floating_point():
            raise ModelError(f"{path}: {name} holds {tensor.dtype}, the model {want.dtype}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: {name} holds values that are not finite")
        right[name] = tensor.to(want.dtype)
    return right


def read_tensors(path: Path, scratch: Path | None = None) -> Tensors:
    """Read a weights file, mapped into memory; a pickle becomes safetensors first.

    Args:
        path: safetensors, or a pickle under any other name.
        scratch: where the safetensors of a pickle go, named by its content; None stands for the cache, where they stay.

    Raises:
        ModelError: the file is damaged, or a pickle that is refused.
    """
    copy = path
    if path.suffix != ".safetensors":
        copy = (scratch or home() / "models" / "pickles") / f"{sha256_file(path)}.safetensors"
        if not copy.is_file():
            to_safetensors(path, copy)
    try:
        return load_file(copy)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{copy}: cannot be read as safetensors: {error}") from error
