"""Whitening: mean 0 and standard deviation 1 over the counted entries.

    whiten(x) = (x - mean) / (std + floor)        std unbiased (n - 1)

Invariants
    1. A standard deviation at or below the floor counts as 0 and is replaced by 1 (`divisor`). This one rule holds
       wherever credit divides by a spread, so equal scores give 0, and who stands outside the statistics (a
       demonstration) keeps its plain distance instead of one blown up by 1 / floor.
    2. Entries that are not counted are moved and scaled like the others and do not move the statistics. Without any
       counted entry nothing changes.
    3. Sums are taken in float64, so a float32 column of equal values becomes exactly 0, at any size.

Example:
    >>> whiten(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False])).tolist()
    [-0.7071067690849304, 0.7071067690849304, 4.949747562408447]
"""

import torch
from torch import Tensor

from hpt_megatron.algorithms.credit.counted import counted_rows, learned_tokens
from hpt_megatron.algorithms.credit.estimator import Credit, CreditSettings
from hpt_megatron.protocol.rows import Rows

PIECE = 2**17  # entries
WHITEN_FLOOR = 1e-8  # added to the standard deviation, as in the usual (a - mean) / (std + 1e-8)


def divisor(std: Tensor, floor: float) -> Tensor:
    """What to divide by: the standard deviation plus the floor; one at or below the floor counts as 0 and becomes 1."""
    return torch.where(std > floor, std, 1.0) + floor


def moments(values: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation over the counted entries, as float64 scalars; 0 where undefined."""
    count = counted.sum().double()
    some = count.clamp(min=1)
    mean = _sums(torch.where(counted, values, 0.0))[0] / some
    deviation = torch.where(counted, values - mean.to(values.dtype), 0.0)
    # The mean was rounded to the column's own type; what that left is taken out of the variance.
    total, square = _sums(deviation)
    square = square - some * (total / some) ** 2
    return mean, (square.clamp(min=0.0) / (count - 1).clamp(min=1)).sqrt()


def _sums(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares in float64, a piece at a time: a copy of the whole column would take ten times as long."""
    pieces = (piece.double() for piece in torch.split(values, PIECE))
    total, square = torch.stack([torch.stack((piece.sum(), piece.dot(piece))) for piece in pieces]).sum(0)
    return total, square


def whiten(values: Tensor, counted: Tensor) -> Tensor:
    """Every entry minus the mean, over the standard deviation, both of the counted entries."""
    mean, std = moments(values, counted)
    coarse = mean.to(values.dtype)
    # In two steps: a mean of a million has no room for the fraction that matters when the values lie close together.
    distance = values - coarse - (mean - coarse).to(values.dtype)
    return distance / divisor(std, WHITEN_FLOOR).to(values.dtype)


def whiten_tokens(rows: Rows, of_token: Tensor, settings: CreditSettings) -> Tensor:
    """[T] whitened over the learned tokens of counted rows; 0 where nothing is learned."""
    learned = learned_tokens(rows)
    counted = learned & rows.per_token(counted_rows(rows, settings.include_demo))
    return torch.where(learned, whiten(of_token, counted), 0.0)


def whiten_advantage(rows: Rows, credit: Credit, settings: CreditSettings) -> Credit:
    """Any estimator's credit with its advantage whitened; returns stay, for a critic learns them as they are.

    A greedy baseline, whose advantage is 0 by definition, keeps it and moves nothing.
    """
    learning = rows.with_fields(valid=rows.fields["valid"] & ~rows.flag("greedy"))
    return Credit(whiten_tokens(learning, credit.advantage, settings), credit.returns)
