"""The processes of one training run: who they are, and what they exchange. One process is the case of a world of 1."""

import torch
from torch import distributed


def world_size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def gather(rows: torch.Tensor) -> torch.Tensor:
    """Join the rows of all processes, in their order; equally many in each. No gradient flows through."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def total(values: torch.Tensor) -> torch.Tensor:
    """Add up over processes."""
    if world_size() > 1:
        distributed.all_reduce(values)
    return values


def highest(values: torch.Tensor) -> torch.Tensor:
    """Take the maximum over processes."""
    if world_size() > 1:
        distributed.all_reduce(values, op=distributed.ReduceOp.MAX)
    return values


def own_rows(rows: torch.Tensor) -> torch.Tensor:
    """Add up the rows of all processes' batches over processes, and return those of this one's batch."""
    if world_size() == 1:
        return rows
    return total(rows).chunk(world_size())[rank()]


def barrier() -> None:
    """Wait until all processes have come here."""
    if world_size() > 1:
        distributed.barrier()
