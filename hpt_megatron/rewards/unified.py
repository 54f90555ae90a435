"""Accuracy, length and quality as one component: a single number with a single curve, instead of three and their sum.

    score = accuracy_weight * accuracy + length_weight * length + quality_weight * quality

Decision: the settings are those of the three components (`keywords.py`, `extent.py`), whose `length_weight` is called
`length_slope` here, for the name is taken by the share in the sum. A share of 0 leaves its component out.

Invariants
    1. The score is that of a composition with the same shares and settings.
    2. It is not valid where one of its parts is not: without a gold answer and without keywords there is no accuracy.

Example:
    >>> one = Unified(accuracy_weight=0.8, length_weight=0.2, optimal_length=10)
    >>> one.score(Sample(turns=("<answer>4</answer>",), answer="4", golds=("4",), tokens=10)).score
    1.0
"""

from dataclasses import dataclass

from hpt_megatron.rewards.component import COMPONENTS, Result, Sample
from hpt_megatron.rewards.composition import Composition, Weighted
from hpt_megatron.rewards.extent import Length, Unit
from hpt_megatron.rewards.keywords import Accuracy, Quality


@COMPONENTS.add("unified")
@dataclass(frozen=True)
class Unified:
    """See the module."""

    accuracy_weight: float = 0.0
    length_weight: float = 0.0
    quality_weight: float = 0.0
    correct_keywords: tuple[str, ...] = ()
    optimal_length: int = 150
    length_slope: float = 1.0
    unit: Unit = "tokens"
    quality_keywords: tuple[str, ...] = ()
    negative_keywords: tuple[str, ...] = ()
    reward_scale: float = 1.0
    penalty_scale: float = -0.5
    per_hit: bool = False

    def __post_init__(self) -> None:
        Length(self.optimal_length, self.length_slope, self.unit)  # which says what it cannot be

    def score(self, sample: Sample) -> Result:
        """The weighted sum; what each part said is in the details."""
        scored = self.composition.score(sample)
        details = {name: result.score for name, result in scored.results.items()}
        return Result(scored.total, scored.flags, details, scored.valid)

    @property
    def composition(self) -> Composition:
        """The parts that have a share."""
        quality = Quality(
            self.quality_keywords, self.negative_keywords, self.reward_scale, self.penalty_scale, self.per_hit
        )
        parts = (
            Weighted("accuracy", self.accuracy_weight, Accuracy(self.correct_keywords)),
            Weighted("length", self.length_weight, Length(self.optimal_length, self.length_slope, self.unit)),
            Weighted("quality", self.quality_weight, quality),
        )
        return Composition(parts=tuple(part for part in parts if part.weight))
