"""What may be done to a row's score before credit is given.

Each step is optional; those that are on are applied in this order:

    global   (s - mean) / std     with statistics gathered before the run and read from a file
    batch    (s - mean) / std     over the counted rows of this batch (`whiten`)
    length   s / l                l the tokens that the policy wrote; our option, no published recipe is meant
    clip     s into [low, high]

Clip comes last, so its bounds hold for what is learned from. Under global and batch a std of 0 becomes 1, by the one
rule of `hpt_megatron.algorithms.credit.whiten`.

Invariants
    1. Rows that are not counted (not valid, or demonstrations) are changed like the others and move no statistic.
    2. A finite score stays finite. Equal scores become 0 under batch. A row without tokens is divided by 1.
    3. Metrics are over the counted rows; without any, a metric that would need one is left out.

Example:
    >>> score, length = torch.tensor([1.0, -3.0]), torch.tensor([2, 2])
    >>> score, metrics = rescale(score, length, torch.tensor([True, True]), RewardScale(length=True, clip=(-1.0, 1.0)))
    >>> score.tolist(), metrics["reward_scale/clip_fraction"]
    ([0.5, -1.0], 0.5)
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from hpt_megatron.algorithms.credit.whiten import WHITEN_FLOOR, divisor, moments, whiten
from hpt_megatron.errors import UserError

Metrics = dict[str, float]


@dataclass(frozen=True)
class RewardStatistics:
    """Mean and standard deviation of scores gathered before a run, and over how many."""

    mean: float
    std: float
    count: int

    @staticmethod
    def of(score: Tensor) -> "RewardStatistics":
        """The statistics of these scores."""
        mean, std = moments(score, torch.ones_like(score, dtype=torch.bool))
        return RewardStatistics(float(mean), float(std), len(score))

    def save(self, path: Path) -> None:
        """Written as JSON."""
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> "RewardStatistics":
        """Read again; what cannot be used is refused by name."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            statistics = RewardStatistics(float(found["mean"]), float(found["std"]), int(found["count"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"no reward statistics can be read ({type(error).__name__}: {error})",
                where=str(path),
                mend='a file such as {"mean": 0.4, "std": 0.2, "count": 1000}',
            ) from error
        if not math.isfinite(statistics.mean) or not 0.0 <= statistics.std < math.inf:
            raise UserError(
                f"not statistics: {statistics}", where=str(path), mend="a finite mean and a std of 0 or more"
            )
        return statistics


@dataclass(frozen=True, kw_only=True)
class RewardScale:
    """Which steps are on."""

    statistics: RewardStatistics | None = None
    batch: bool = False
    length: bool = False
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise UserError(f"nothing lies between the bounds {self.clip} of the reward", mend="low < high")


def rescale(score: Tensor, length: Tensor, counted: Tensor, settings: RewardScale) -> tuple[Tensor, Metrics]:
    """Scores [R] after the steps that are on, and what they did."""
    metrics: Metrics = {}
    if settings.statistics is not None:
        score = by_statistics(score, settings.statistics)
        metrics |= _moments("global", score, counted)
    if settings.batch:
        score = whiten(score, counted)
        metrics |= _moments("batch", score, counted)
    if settings.length:
        score = by_length(score, length)
        metrics |= _moments("length", score, counted)
    if settings.clip is not None:
        outside = (score < settings.clip[0]) | (score > settings.clip[1])
        score = score.clamp(*settings.clip)
        metrics |= _mean("clip_fraction", outside.double(), counted) | _moments("clip", score, counted)
    return score, metrics


def by_statistics(score: Tensor, statistics: RewardStatistics) -> Tensor:
    """Minus the stored mean, over the stored standard deviation."""
    std = divisor(torch.tensor(statistics.std, dtype=torch.float64), WHITEN_FLOOR)
    return ((score.double() - statistics.mean) / std).to(score.dtype)


def by_length(score: Tensor, length: Tensor) -> Tensor:
    """Per token that the policy wrote."""
    return score / length.clamp(min=1)


def _mean(name: str, values: Tensor, counted: Tensor) -> Metrics:
    return {f"reward_scale/{name}": float(values[counted].mean())} if bool(counted.any()) else {}


def _moments(step: str, score: Tensor, counted: Tensor) -> Metrics:
    """Mean and spread after a step."""
    if not bool(counted.any()):
        return {}
    mean, std = moments(score, counted)
    return {f"reward_scale/{step}_mean": float(mean), f"reward_scale/{step}_std": float(std)}
