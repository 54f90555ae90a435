"""How well scores tell what is preferred, and whether their distance says how surely.

A pair is right where the preferred answer has the higher score; a tie is half right. Its probability is
p = sigma(s_c - s_r), or that of the margin that a preference loss has.

    accuracy      share of pairs that are right            brier   mean of (1 - p)^2
    ece           mean over 15 bins, by their size, of |share that is right - mean confidence|
    separation    (mean s_c - mean s_r) / pooled standard deviation (Cohen's d)
    auc           chance that any preferred answer has a higher score than any rejected one

Decision: in every pair of the data the preferred answer comes first, so p alone would always be "right" and say nothing
of calibration. Confidence is max(p, 1 - p) and right is whether it lies on the preferred side: both are free of order.

Example:
    >>> found = calibrated(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]))
    >>> found.accuracy, round(found.brier, 4), round(found.ece, 4)
    (0.5, 0.2743, 0.4251)
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hpt_megatron.protocol.bin import Bin

BINS = 15
COLUMNS = 24


@dataclass(frozen=True)
class Calibration:
    """See the module."""

    pairs: int
    accuracy: float
    margin: float
    brier: float
    ece: float
    auc: float
    separation: float
    bins: tuple[Bin, ...]

    @property
    def numbers(self) -> dict[str, float]:
        """All that is one number."""
        return {name: float(value) for name, value in asdict(self).items() if name not in ("bins", "pairs")}


def calibrated(chosen: Tensor, rejected: Tensor) -> Calibration:
    """Of scores of pairs, whose difference is a log-odds."""
    chosen, rejected = chosen.double(), rejected.double()
    margin = chosen - rejected
    right = (margin > 0).double() + 0.5 * (margin == 0).double()
    confidence = torch.maximum(margin.sigmoid(), (-margin).sigmoid())
    bins = _bins(confidence, right)
    gap = sum(each.pairs * abs(each.right - each.confidence) for each in bins)
    return Calibration(
        pairs=len(margin),
        accuracy=float(right.mean()),
        margin=float(margin.mean()),
        brier=float((1 - margin.sigmoid()).square().mean()),
        ece=gap / len(margin),
        auc=_auc(chosen, rejected),
        separation=_separation(chosen, rejected),
        bins=bins,
    )


def _bins(confidence: Tensor, right: Tensor) -> tuple[Bin, ...]:
    """Fifteen of the same width over the whole of 0 to 1; those without a pair are left out."""
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    found = []
    for number in sorted({*place.tolist()}):
        inside = place == number
        found.append(
            Bin(
                low=number / BINS,
                high=(number + 1) / BINS,
                pairs=int(inside.sum()),
                confidence=float(confidence[inside].mean()),
                right=float(right[inside].mean()),
            )
        )
    return tuple(found)


def _auc(chosen: Tensor, rejected: Tensor) -> float:
    every, order = torch.unique(torch.cat([chosen, rejected]), return_inverse=True)
    counts = torch.bincount(order, minlength=len(every)).double()
    rank = counts.cumsum(0) - (counts - 1) / 2  # the mean rank of equals
    n, m = len(chosen), len(rejected)
    return float((rank[order[:n]].sum() - n * (n + 1) / 2) / (n * m))


def _separation(chosen: Tensor, rejected: Tensor) -> float:
    spread = ((chosen.var(correction=0) + rejected.var(correction=0)) / 2).sqrt()
    return float((chosen.mean() - rejected.mean()) / spread) if float(spread) > 0 else 0.0


def histogram(chosen: Tensor, rejected: Tensor) -> dict[str, list[float]]:
    """Both distributions over the same columns: their edges, and the counts of each."""
    both = torch.cat([chosen, rejected]).double()
    low, high = float(both.min()), float(both.max())
    high = high if high > low else low + 1.0
    counts = [torch.histc(each.double(), COLUMNS, low, high).tolist() for each in (chosen, rejected)]
    width = (high - low) / COLUMNS
    return {"edges": [low + width * at for at in range(COLUMNS + 1)], "chosen": counts[0], "rejected": counts[1]}


def as_json(found: Calibration) -> Mapping[str, Any]:
    """Plain values."""
    return {**asdict(found), "bins": [asdict(each) for each in found.bins]}
