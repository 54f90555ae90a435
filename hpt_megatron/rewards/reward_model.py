"""Scores of reward models: they arrive from outside with the sample; here they become one number.

    served scores of each member -> one number     mean | min | mean - uncertainty * variance       (`ensemble`)

Decision: models are served elsewhere, a batch at a time (`RewardModel`), and `scored_by` puts what they say into the
samples. So a component needs no model, and several models are several names. Statistics over a batch are taken of the
final score, by `algorithm.reward_scale`.

Invariants
    1. A sample without a score, or with one that is no finite number, is not valid.

Example:
    >>> ensemble([1.0, 3.0], "mean"), ensemble([1.0, 3.0], "min"), ensemble([1.0, 3.0], "uncertainty", 0.5)
    (2.0, 1.0, 1.5)
    >>> RewardModelScore().score(Sample(turns=(), scores={"reward_model": (0.25, 0.75)})).score
    0.5
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pvariance
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


def ensemble(scores: Sequence[float], how: Ensemble, uncertainty: float = 0.0) -> float:
    """One number of what the members say; `uncertainty` weighs the variance among them."""
    if how == "min":
        return min(scores)
    mean = fmean(scores)
    return mean - uncertainty * pvariance(scores, mean) if how == "uncertainty" else mean


def scored_by(samples: Sequence[Sample], model: RewardModel, name: str = NAME) -> list[Sample]:
    """The samples with what a model says of each."""
    said = [tuple(members) for members in model.scores(samples)]
    if len(said) != len(samples):
        raise ValueError(f"{len(said)} scores for {len(samples)} samples")
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
