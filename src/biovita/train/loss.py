"""Contrastive losses between two modalities over the batch of all processes, in memory that grows with the batch alone.

Row i of one side belongs to row i of the other. The matrix of logits is never held whole: blocks of its rows are
computed and summed up; `KEPT_BYTES` of them are kept for the gradient, the rest is computed again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from biovita.train import ranks

BLOCK_BYTES = 8 << 20  # of logits at once
KEPT_BYTES = 64 << 20  # of logits kept for the gradient, whatever the batch; the rest is computed again
WIDE_SCALE = 70.0  # above it the exponentials of logits need float64: a sum of float32 may overflow, or vanish
SameSpecies = Literal["masked", "positive", "negative"]
Form = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Targets:
    """What counts as a right answer besides a row's own partner.

    Attributes:
        same_species: another row of the same species is `masked` (left out, neither right nor wrong), `positive` (as
            right as the partner), or `negative` (wrong, as in the released code).
        kinship: weight of a row of another species of the same genus, as against 1 for the partner; its square for the
            family, its cube for the order, and so on. 0 makes all other species wrong.
    """

    same_species: SameSpecies = "masked"
    kinship: float = 0.0


def contrastive(
    one: torch.Tensor,
    other: torch.Tensor,
    scale: torch.Tensor,
    lineage: torch.Tensor,
    *,
    present: torch.Tensor | None = None,
    targets: Targets = Targets(),
    form: Form = "softmax",
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the loss of one pair of modalities over the rows of all processes.

    `softmax`: the mean of both directions' cross entropies (symmetric InfoNCE); where a row has several right answers,
    against their normalised weights. `sigmoid`: every pair of rows is a yes or no of its own.

    The value is the same in all processes. The gradient is that of the whole loss times the number of processes, since
    distributed training takes the mean of the gradients over processes.

    Args:
        one: unit vectors of this process, shape (batch, width); equally many in every process.
        other: unit vectors of the other modality, the same shape.
        scale: factor on the cosines, 1 / temperature, a scalar.
        lineage: codes of each row's species, genus, family, ..., shape (batch, ranks); the first column is the species.
        present: whether a row has both modalities, shape (batch,); the others take no part. None: all.
        targets: which rows are right answers.
        form: cross entropy over all candidates, or one for each pair.
        bias: added to the logits of `sigmoid`, a scalar.

    Returns:
        A scalar; 0 without a gradient where no row takes part.

    Source:
        InfoNCE: CLIP (arXiv 2103.00020), in BioVITA (arXiv 2603.23883) for ATC, AIC and ITC. Several positives: SupCon
        (arXiv 2004.11362), with the mean inside the logarithm's target. Sigmoid: SigLIP (arXiv 2303.15343).
    """
    if present is None:
        present = torch.ones(len(one), dtype=torch.bool, device=one.device)
    if form == "sigmoid" and bias is None:
        raise ValueError("form 'sigmoid' needs a bias")
    if bias is None:
        bias = torch.zeros((), dtype=one.dtype, device=one.device)
    with torch.autocast(one.device.type, enabled=False):
        return _Contrastive.apply(one, other, scale, bias, lineage, present, targets, form)


class _Contrastive(torch.autograd.Function):
    """The loss and its gradient, block of rows by block of rows."""

    @staticmethod
    def forward(ctx: Any, one: Any, other: Any, scale: Any, bias: Any, lineage: Any, present: Any, *rule: Any) -> Any:
        ctx.matrix = matrix = _Matrix(one, other, scale, bias, lineage, present, *rule)
        ctx.n_pairs = n_pairs = matrix.presents.sum().clamp_min(1)
        loss, ctx.slopes = (_sigmoid if matrix.form == "sigmoid" else _softmax)(matrix)
        return ranks.total(loss) / n_pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        matrix: _Matrix = ctx.matrix
        d_one, d_others = torch.zeros_like(matrix.one), torch.zeros_like(matrix.others)
        d_bias = torch.zeros_like(matrix.bias)
        for rows in matrix.blocks():
            slope = ctx.slopes(rows)
            torch.mm(slope, matrix.others, out=d_one[rows])
            d_others.addmm_(slope.T, matrix.one[rows])
            d_bias += slope.sum() if matrix.form == "sigmoid" else 0
        factor = grad * ranks.world_size() / ctx.n_pairs
        d_scale = (d_one * matrix.one).sum() * factor
        d_other = ranks.own_rows(d_others) * (matrix.scale * factor)
        return d_one * (matrix.scale * factor), d_other, d_scale, d_bias * factor, None, None, None, None


class _Matrix:
    """All that defines the logits of this process's rows and everyone's columns."""

    def __init__(
        self,
        one: torch.Tensor,
        other: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        lineage: torch.Tensor,
        present: torch.Tensor,
        targets: Targets,
        form: Form,
    ) -> None:
        self.one, self.other, self.scale, self.bias = one, other, scale, bias
        self.lineage, self.present = lineage.to(torch.int32), present
        self.targets, self.form = targets, form
        self.others, self.lineages, self.presents = map(ranks.gather, (other, self.lineage, present))
        self.first = ranks.rank() * len(one)  # the column of this process's first row
        self.own = slice(self.first, self.first + len(one))
        self.is_partner_only = targets.same_species != "positive" and not targets.kinship

    def blocks(self) -> Iterator[slice]:
        n_rows = max(1, BLOCK_BYTES // (4 * max(1, len(self.others))))
        return (slice(start, min(start + n_rows, len(self.one))) for start in range(0, len(self.one), n_rows))

    def logits(self, rows: slice) -> torch.Tensor:
        """Compute scale * cosine, shape (rows, all columns)."""
        return (self.scale * self.one[rows]) @ self.others.T

    def partners(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Index each row's partner in a block."""
        local = torch.arange(rows.stop - rows.start, device=self.one.device)
        return local, local + (self.first + rows.start)

    def left_out(self, rows: slice) -> torch.Tensor | None:
        """Mark the pairs that take no part; None if all do."""
        out = None
        if self.targets.same_species == "masked":
            out = self._same(rows, 0)
            out[self.partners(rows)] = False
        if not self.presents.all():
            absent = ~(self.present[rows, None] & self.presents)
            out = absent if out is None else out | absent
        return out

    def weight(self, rows: slice) -> torch.Tensor:
        """Say how right each column is for each row; symmetric over all rows and columns."""
        weight = self.one.new_zeros(rows.stop - rows.start, len(self.others))
        if self.targets.kinship:
            for rank in reversed(range(1, self.lineage.shape[1])):  # the nearest relation counts
                weight.masked_fill_(self._same(rows, rank), self.targets.kinship**rank)
        weight.masked_fill_(self._same(rows, 0), 1.0 if self.targets.same_species == "positive" else 0.0)
        weight[self.partners(rows)] = 1.0
        out = self.left_out(rows)
        return weight if out is None else weight.masked_fill_(out, 0.0)

    def _same(self, rows: slice, rank: int) -> torch.Tensor:
        return self.lineage[rows, None, rank] == self.lineages[:, rank]


def _softmax(matrix: _Matrix) -> tuple[torch.Tensor, Callable[[slice], torch.Tensor]]:
    """Sum -log(share of the right answers) over rows and columns; return it, and its slope for a block of logits."""
    dtype = torch.float64 if matrix.scale > WIDE_SCALE else matrix.one.dtype  # no logit is above the scale
    kept: dict[int, torch.Tensor] = {}

    def exponentials(rows: slice) -> torch.Tensor:
        found = matrix.logits(rows).to(dtype).exp_()
        out = matrix.left_out(rows)
        return found if out is None else found.masked_fill_(out, 0.0)

    row = matrix.one.new_zeros(len(matrix.one), dtype=dtype)
    column = matrix.one.new_zeros(len(matrix.others), dtype=dtype)
    n_kept_bytes = 0
    for rows in matrix.blocks():
        found = exponentials(rows)
        row[rows] = found.sum(1)
        column += found.sum(0)
        n_kept_bytes += found.nbytes
        if n_kept_bytes <= KEPT_BYTES:
            kept[rows.start] = found
    column = ranks.total(column)
    weight, right_row, right_column = _right_answers(matrix)
    weights = ranks.gather(weight)
    lost = (row.log() - right_row / weight)[matrix.present].sum()
    lost += (column.log() - right_column / weights)[matrix.own][matrix.present].sum()
    per_row = (1 / row).masked_fill(~matrix.present, 0.0)
    per_column = (1 / column).masked_fill(~matrix.presents, 0.0)

    def slope(rows: slice) -> torch.Tensor:
        found = kept.pop(rows.start, None)
        found = exponentials(rows) if found is None else found
        found *= per_row[rows, None] + per_column
        if matrix.is_partner_only:
            found[matrix.partners(rows)] -= 2.0 * matrix.present[rows]
        else:
            found -= matrix.weight(rows) * (1 / weight[rows, None] + 1 / weights)
        return found.mul_(0.5).to(matrix.one.dtype)

    return (lost / 2).to(matrix.one.dtype), slope


def _right_answers(matrix: _Matrix) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum the weights of each row, its weighted logits, and those of each column."""
    if matrix.is_partner_only:
        partner = (matrix.one * matrix.other).sum(1) * matrix.scale
        return torch.ones_like(partner), partner, ranks.gather(partner)
    weight, right_row = (matrix.one.new_zeros(len(matrix.one)) for _ in range(2))
    right_column = matrix.one.new_zeros(len(matrix.others))
    for rows in matrix.blocks():
        weights = matrix.weight(rows)
        right = weights * matrix.logits(rows)
        weight[rows], right_row[rows] = weights.sum(1), right.sum(1)
        right_column += right.sum(0)
    return weight.masked_fill_(~matrix.present, 1.0), right_row, ranks.total(right_column)


def _sigmoid(matrix: _Matrix) -> tuple[torch.Tensor, Callable[[slice], torch.Tensor]]:
    """Sum -log(share) of a yes or no for each pair; return it, and its slope for a block of logits."""

    def held(values: torch.Tensor, rows: slice) -> torch.Tensor:
        out = matrix.left_out(rows)
        return values if out is None else values.masked_fill_(out, 0.0)

    lost = matrix.one.new_zeros(())
    for rows in matrix.blocks():
        logits = matrix.logits(rows) + matrix.bias
        lost += held(functional.softplus(logits) - matrix.weight(rows) * logits, rows).sum()
    return lost, lambda rows: held(torch.sigmoid(matrix.logits(rows) + matrix.bias) - matrix.weight(rows), rows)
