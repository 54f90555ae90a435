"""Whether a run learned, in a few numbers: its first steps with rollouts beside its last ones.

A warm-up generates nothing and so has no reward; its steps are in neither window. A window is `width` steps, fewer
where the run has not twice as many, so that the two never share a step.

Invariant: nothing is claimed of a run with fewer than two such steps.

Example:
    >>> steps = [{"reward/mean": i / 100, "uni/sft_data_ratio": 1 - i / 100} for i in range(101)]
    >>> told = headline(steps)
    >>> told.reward.first, round(told.gain, 3), told.width, told.share_fell
    (0.045, 0.91, 10, True)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt

REWARD, SHARE, SOLVED = "reward/mean", "uni/sft_data_ratio", "batch/solved"
WIDTH = 10


@dataclass(frozen=True)
class Pair:
    """A mean over the first window and over the last one."""

    first: float
    last: float

    @property
    def gain(self) -> float:
        """Last less first."""
        return self.last - self.first


@dataclass(frozen=True)
class Headline:
    """See the module; a pair is None where its number is missing."""

    width: int  # steps of a window
    steps: int  # that had rollouts
    without: int  # steps before the first one that had any
    reward: Pair | None
    share: Pair | None  # of imitation among the trained rows, 0 to 1
    solved: Pair | None  # share of rollouts that are a success
    error: float  # standard error of the reward's gain, from the spread between steps

    @property
    def gain(self) -> float | None:
        """By how much the mean reward rose."""
        return self.reward.gain if self.reward else None

    @property
    def rose(self) -> bool | None:
        """Whether the reward rose; None where nobody can say."""
        return self.reward.gain > 0 if self.reward else None

    @property
    def share_fell(self) -> bool | None:
        """Whether less was imitated at the end than at the start."""
        return self.share.gain < 0 if self.share else None

    @property
    def beyond_noise(self) -> bool:
        """Whether the reward moved by more than two standard errors."""
        return self.reward is not None and abs(self.reward.gain) > 2 * self.error


def headline(steps: Sequence[Mapping[str, float]], width: int = WIDTH) -> Headline:
    """Of the lines of `metrics.jsonl`, in order."""
    places = [place for place, numbers in enumerate(steps) if REWARD in numbers]
    sampled = [steps[place] for place in places]
    width = min(width, len(sampled) // 2)
    first, last = sampled[:width], sampled[len(sampled) - width :]
    spread = [_variance([numbers[REWARD] for numbers in window]) / width for window in (first, last)] if width else []
    return Headline(
        width=width,
        steps=len(sampled),
        without=places[0] if places else len(steps),
        reward=_pair(first, last, REWARD),
        share=_pair(first, last, SHARE),
        solved=_pair(first, last, SOLVED),
        error=sqrt(fsum(spread)),
    )


def told(line: Headline) -> list[str]:
    """The same in words, a line each.

    >>> for one in told(headline([{REWARD: 0.25, SHARE: 0.5}, {REWARD: 0.75, SHARE: 0.0}])): print(one)
    reward 0.250 in the first step with rollouts, 0.750 in the last: it rose by 0.500
    SFT share 50 % in the first step with rollouts, 0 % in the last: it fell
    """
    if not line.width:
        return [f"{line.steps or 'no'} step{'s' * (line.steps != 1)} with rollouts: too few to compare"]
    which = "step" if line.width == 1 else f"{line.width} steps"
    said = []
    if line.reward:
        said.append(_said("reward", f"{line.reward.first:.3f}", f"{line.reward.last:.3f}", which))
        error = f", standard error {line.error:.3f}" if line.width > 1 else ""
        said[-1] += f"it {_moved(line.reward.gain)} by {abs(line.reward.gain):.3f}{error}"
    if line.share:
        said.append(_said("SFT share", f"{100 * line.share.first:.0f} %", f"{100 * line.share.last:.0f} %", which))
        said[-1] += f"it {_moved(line.share.gain)}"
    return said


def _said(name: str, first: str, last: str, which: str) -> str:
    return f"{name} {first} in the first {which} with rollouts, {last} in the last: "


def _moved(gain: float) -> str:
    return "rose" if gain > 0 else "fell" if gain < 0 else "stayed"


def _pair(first: Sequence[Mapping[str, float]], last: Sequence[Mapping[str, float]], name: str) -> Pair | None:
    means = [_mean([numbers[name] for numbers in window if name in numbers]) for window in (first, last)]
    return Pair(means[0], means[1]) if means[0] is not None and means[1] is not None else None


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None


def _variance(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = fsum(values) / len(values)
    return fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
