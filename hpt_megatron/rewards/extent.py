"""How long a response is and how much of it repeats.

    length      clip(1 - |n - optimal| / optimal, -1, 1) * length_weight    in tokens, words or characters
    overlong    DAPO's: 0 up to L - B, falling to -1 at L, and -1 beyond    in tokens
    repetition  -scale * (1 - distinct n-grams / n-grams)                   over words, none across turns

Only what the policy wrote counts. `algorithm.overlong` adds the same penalty as `overlong` to every score: use one of
them. `length` pays for a length whatever is written, so keep its weight small.

Invariants
    1. length lies in [-|length_weight|, |length_weight|], overlong in [-1, 0], repetition in [-scale, 0].
    2. overlong never grows with the length.

Example:
    >>> Length(optimal_length=100, length_weight=1.0).score(Sample(turns=(), tokens=150)).score
    0.5
    >>> [Overlong(longest=100, buffer=20).score(Sample(turns=(), tokens=n)).score for n in (80, 90, 100, 120)]
    [0.0, -0.5, -1.0, -1.0]
    >>> round(Repetition(n=1).score(Sample(turns=("no no no",))).score, 3)
    -0.667
"""

from dataclasses import dataclass
from typing import Literal

from hpt_megatron.errors import UserError
from hpt_megatron.protocol.overlong import overlong
from hpt_megatron.rewards.component import COMPONENTS, Result, Sample

Unit = Literal["tokens", "words", "characters"]


def extent(sample: Sample, unit: Unit) -> int:
    """How long the policy's own text is."""
    if unit == "tokens":
        return sample.tokens
    return sum(len(turn.split()) if unit == "words" else len(turn) for turn in sample.turns)


@COMPONENTS.add("length")
@dataclass(frozen=True)
class Length:
    """Highest at the optimal length; `length_weight` is its slope, apart from the weight in a composition."""

    optimal_length: int = 150
    length_weight: float = 1.0
    unit: Unit = "tokens"

    def __post_init__(self) -> None:
        if self.optimal_length < 1:
            raise UserError(f"an optimal length of {self.optimal_length}", where="optimal_length", mend="1 or more")

    def score(self, sample: Sample) -> Result:
        """1 at the peak, 0 at nothing and at twice the optimum, -1 from three times on; times the slope."""
        length = extent(sample, self.unit)
        peak = 1.0 - abs(length - self.optimal_length) / self.optimal_length
        return Result(max(peak, -1.0) * self.length_weight, details={"length": float(length)})


@COMPONENTS.add("overlong")
@dataclass(frozen=True)
class Overlong:
    """The soft penalty of a response close to the limit; a buffer of 0 is a step behind it."""

    longest: int = 2048
    buffer: int = 512

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise UserError(f"a longest response of {self.longest} tokens", where="longest", mend="1 or more")
        if not 0 <= self.buffer <= self.longest:
            what = f"a buffer of {self.buffer} tokens in a response of {self.longest}"
            raise UserError(what, where="buffer", mend="0 (a step at the end) to the longest response")

    def score(self, sample: Sample) -> Result:
        """0, or how far into the buffer the response reaches."""
        penalty = overlong(sample.tokens, self.longest, self.buffer)
        return Result(penalty, ("overlong",) if penalty else ())


@COMPONENTS.add("repetition")
@dataclass(frozen=True)
class Repetition:
    """The share of n-grams that were there before, as a penalty."""

    n: int = 4
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"n-grams of {self.n} words", where="n", mend="1 or more")
        if self.scale < 0:
            raise UserError(f"a scale of {self.scale} would pay for repetition", where="scale", mend="0 or more")

    def score(self, sample: Sample) -> Result:
        """Over all turns together; a text shorter than n words repeats nothing."""
        grams: list[tuple[str, ...]] = []
        for turn in sample.turns:
            words = turn.casefold().split()
            grams += zip(*(words[i:] for i in range(self.n)), strict=False)
        repeated = 1 - len(set(grams)) / len(grams) if grams else 0.0
        return Result(-self.scale * repeated if repeated else 0.0, details={"repeated": repeated})
