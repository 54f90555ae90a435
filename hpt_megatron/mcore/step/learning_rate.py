"""The learning rate of a step: a function of the step alone, so that a resumed run cannot count twice.

    warm-up     rises evenly; the first of n steps has lr / n, the last has lr
    constant    lr
    linear      falls evenly to floor * lr at the last step
    cosine      falls along half a cosine to floor * lr at the last step

Example:
    >>> [learning_rate(step, Schedule("linear", 1.0, warmup=2, total=6, floor=0.0)) for step in range(6)]
    [0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """What the rate depends on besides the step."""

    kind: Literal["constant", "linear", "cosine"]
    peak: float
    warmup: int = 0
    total: int | None = None
    floor: float = 0.0


def learning_rate(step: int, schedule: Schedule) -> float:
    """The rate of a step, counted from 0; past the end it stays where it ended."""
    if step < schedule.warmup:
        return schedule.peak * (step + 1) / schedule.warmup
    if schedule.kind == "constant" or schedule.total is None:
        return schedule.peak
    falling = schedule.total - max(schedule.warmup, 1)
    done = min(1.0, (step + 1 - max(schedule.warmup, 1)) / falling) if falling > 0 else 1.0
    share = 1.0 - done if schedule.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return schedule.peak * (schedule.floor + (1.0 - schedule.floor) * share)
