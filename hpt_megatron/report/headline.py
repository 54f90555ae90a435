"""Whether a run learned, in a few numbers: its first steps with rollouts beside its last ones.

A warm-up generates nothing and so has no reward; its steps are in neither window. A window is `width` steps, fewer
where the run has not twice as many, so that the two never share a step. A run that has no reward at all is held to
what it has instead: the accuracy on pairs (a reward model, DPO), or the loss of imitation.

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
ACCURACY, LOSS = "pairs/accuracy", "actor/loss"
OF_STEPS = {REWARD: " with rollouts", ACCURACY: " with pairs", LOSS: " of imitation"}
"""What a run is held to, the first that it has, and the steps that have it."""
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
    without: int  # steps before the first one that had any; all where none has
    reward: Pair | None
    share: Pair | None  # of imitation among the trained rows, 0 to 1
    solved: Pair | None  # share of rollouts that are a success
    error: float  # standard error of the gain of what it is held to, from the spread between steps
    held_to: str = REWARD
    accuracy: Pair | None = None  # share of a step's pairs that are right
    loss: Pair | None = None

    @property
    def main(self) -> Pair | None:
        """What the run is held to."""
        return {REWARD: self.reward, ACCURACY: self.accuracy, LOSS: self.loss}[self.held_to]

    @property
    def window(self) -> str:
        """Which steps a mean is over, in words."""
        return ("step" if self.width == 1 else f"{self.width} steps") + OF_STEPS[self.held_to]

    @property
    def good(self) -> tuple[bool, ...]:
        """Of each line of `told`, whether it is the way that one hopes for."""
        pairs = [(self.reward, 1), (self.share, -1)]
        pairs += [(self.accuracy, 1)] if self.accuracy else []
        pairs += [(self.loss, -1)] if self.held_to != REWARD and self.loss else []
        return tuple(pair.gain * way > 0 for pair, way in pairs if pair)

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
        """Whether what it is held to moved by more than two standard errors."""
        return self.main is not None and abs(self.main.gain) > 2 * self.error


def headline(steps: Sequence[Mapping[str, float]], width: int = WIDTH) -> Headline:
    """Of the lines of `metrics.jsonl`, in order."""
    held_to = next((name for name in OF_STEPS if any(name in numbers for numbers in steps)), REWARD)
    places = [place for place, numbers in enumerate(steps) if held_to in numbers]
    sampled = [steps[place] for place in places]
    width = min(width, len(sampled) // 2)
    first, last = sampled[:width], sampled[len(sampled) - width :]
    spread = [_variance([numbers[held_to] for numbers in window]) / width for window in (first, last)] if width else []
    return Headline(
        width=width,
        steps=len(sampled),
        without=places[0] if places else len(steps),
        reward=_pair(first, last, REWARD),
        share=_pair(first, last, SHARE) if held_to == REWARD else None,  # of imitation alone it is all
        solved=_pair(first, last, SOLVED),
        error=sqrt(fsum(spread)),
        held_to=held_to,
        accuracy=_pair(first, last, ACCURACY),
        loss=_pair(first, last, LOSS),
    )


def told(line: Headline) -> list[str]:
    """The same in words, a line each.

    >>> for one in told(headline([{REWARD: 0.25, SHARE: 0.5}, {REWARD: 0.75, SHARE: 0.0}])): print(one)
    reward 0.250 in the first step with rollouts, 0.750 in the last: it rose by 0.500
    SFT share 50 % in the first step with rollouts, 0 % in the last: it fell
    """
    if not line.width:
        return [f"{line.steps or 'no'} step{'s' * (line.steps != 1)}{OF_STEPS[line.held_to]}: too few to compare"]
    error = f", standard error {line.error:.3f}" if line.width > 1 else ""
    said = []
    if line.reward:
        said.append(_said("reward", line.reward, line.window) + error)
    if line.share:
        told_of = f"SFT share {100 * line.share.first:.0f} % in the first {line.window}, "
        said.append(f"{told_of}{100 * line.share.last:.0f} % in the last: it {_moved(line.share.gain)}")
    if line.accuracy:
        own = error if line.held_to == ACCURACY else ""
        said.append(_said("accuracy on pairs", line.accuracy, line.window) + own)
    if line.held_to != REWARD and line.loss:
        said.append(_said("loss", line.loss, line.window) + (error if line.held_to == LOSS else ""))
    return said


def _said(name: str, pair: Pair, window: str) -> str:
    ends = f"{name} {pair.first:.3f} in the first {window}, {pair.last:.3f} in the last"
    return f"{ends}: it {_moved(pair.gain)} by {abs(pair.gain):.3f}"


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
