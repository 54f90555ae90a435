"""Scores of reward models: they arrive from outside with the sample; here they become one number.

    served scores of each member
        -> one number     mean | min | mean - uncertainty * variance       (`ensemble`)
        -> global         minus a mean, over a standard deviation, gathered before the run
        -> batch          mean 0 and standard deviation 1 over the samples of a step
        -> length         divided by the tokens of the response
        -> clip           into [low, high]

Decision: models are served elsewhere, a batch at a time (`RewardModel`), and `scored_by` puts what they say into the
samples. So a component needs no model, and several models are several names.

Invariants
    1. The steps that are on are applied in the order above; a standard deviation of 0 becomes 1.
    2. A sample without a score, or with one that is no finite number, is not valid and moves no statistic.

Example:
    >>> ensemble([1.0, 3.0], "mean"), ensemble([1.0, 3.0], "min"), ensemble([1.0, 3.0], "uncertainty", 0.5)
    (2.0, 1.0, 1.5)
    >>> normalised([1.0, 3.0], [1, 2], Normalisation(batch=True, length=True))
    [-1.0, 0.5]
    >>> RewardModelScore().score(Sample(turns=(), scores={"reward_model": (0.25, 0.75)})).score
    0.5
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev, pvariance
from typing import Literal, Protocol

from hpt_megatron.errors import UserError
from hpt_megatron.rewards.component import COMPONENTS, Result, Sample

Ensemble = Literal["mean", "min", "uncertainty"]
NAME = "reward_model"


class RewardModel(Protocol):
    """A served model, or several; where it runs is not our concern."""

    def scores(self, samples: Sequence[Sample]) -> Sequence[Sequence[float]]:
        """The scores of every member for each sample, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Which steps are on; none by default."""

    mean: float = 0.0  # global
    std: float = 1.0
    batch: bool = False
    length: bool = False
    low: float = -math.inf  # clip
    high: float = math.inf

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 <= self.std < math.inf):
            raise UserError(f"no mean and std: {self.mean}, {self.std}", where="std", mend="a std of 0 or more")
        if not self.low < self.high:
            raise UserError(f"nothing lies between {self.low} and {self.high}", where="low", mend="low below high")


def ensemble(scores: Sequence[float], how: Ensemble, uncertainty: float = 0.0) -> float:
    """One number of what the members say; `uncertainty` weighs the variance among them."""
    if how == "min":
        return min(scores)
    mean = fmean(scores)
    return mean - uncertainty * pvariance(scores, mean) if how == "uncertainty" else mean


def normalised(scores: Sequence[float], lengths: Sequence[int], steps: Normalisation) -> list[float]:
    """Of a batch, in the order of the steps."""
    changed = [(score - steps.mean) / (steps.std or 1.0) for score in scores]
    if steps.batch and changed:
        mean, std = fmean(changed), pstdev(changed)
        changed = [(score - mean) / (std or 1.0) for score in changed]
    if steps.length:
        changed = [score / max(length, 1) for score, length in zip(changed, lengths, strict=True)]
    return [min(max(score, steps.low), steps.high) for score in changed]


def scored_by(
    samples: Sequence[Sample], model: RewardModel, name: str = NAME, steps: Normalisation | None = None
) -> list[Sample]:
    """The samples with what a model says of each; with `steps`, each member's scores are normalised over the batch."""
    said = [tuple(members) for members in model.scores(samples)]
    if len(said) != len(samples):
        raise ValueError(f"{len(said)} scores for {len(samples)} samples")
    counted = [i for i, members in enumerate(said) if members and all(map(math.isfinite, members))]
    if steps is not None and counted:
        lengths = [samples[i].tokens for i in counted]
        columns = zip(*(said[i] for i in counted), strict=True)
        rows = list(zip(*(normalised(column, lengths, steps) for column in columns), strict=True))
        for i, row in zip(counted, rows, strict=True):
            said[i] = row
    return [
        replace(sample, scores={**sample.scores, name: members}) for sample, members in zip(samples, said, strict=True)
    ]


@COMPONENTS.add("reward_model")
@dataclass(frozen=True)
class RewardModelScore:
    """The ensemble's number; `of` names the model whose scores came with the sample."""

    of: str = NAME
    ensemble: Ensemble = "mean"
    uncertainty: float = 0.0

    def __post_init__(self) -> None:
        if self.uncertainty < 0:
            raise UserError(f"a weight of {self.uncertainty} on the variance", where="uncertainty", mend="0 or more")

    def score(self, sample: Sample) -> Result:
        """Nothing that was not served is guessed."""
        members = sample.scores.get(self.of, ())
        if not members or not all(map(math.isfinite, members)):
            return Result(0.0, ("no_score",), valid=False)
        return Result(
            ensemble(members, self.ensemble, self.uncertainty), details={"variance": float(pvariance(members))}
        )
