"""A number over the steps, thin enough to draw: means of neighbouring steps, and what was the least and most of each.

Invariants
    1. At most `MOST` points; where steps fall together their mean is drawn and their range is kept.
    2. A running mean looks back only, so that a curve's end does not change when a run goes on.

Example:
    >>> thin([(1, 0.0), (2, 1.0), (3, 5.0)], most=2)
    [Point(step=2, mean=0.5, low=0.0, high=1.0), Point(step=3, mean=5.0, low=5.0, high=5.0)]
"""

from collections.abc import Mapping, Sequence
from math import ceil, fsum, log10
from typing import NamedTuple

MOST = 240
SHORT = 16  # points that are drawn as they are


class Point(NamedTuple):
    """Some neighbouring steps; `step` is the last of them."""

    step: float
    mean: float
    low: float
    high: float


def points_of(steps: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """The steps that have a number."""
    return [(numbers["step"], numbers[name]) for numbers in steps if name in numbers]


def thin(values: Sequence[tuple[float, float]], most: int = MOST) -> list[Point]:
    """Equal numbers of neighbours together, the last ones perhaps fewer."""
    size = max(1, ceil(len(values) / most))
    found = []
    for start in range(0, len(values), size):
        own = [value for _, value in values[start : start + size]]
        step = values[min(start + size, len(values)) - 1][0]
        found.append(Point(step, fsum(own) / len(own), min(own), max(own)))
    return found


def window_of(count: int) -> int:
    """Over how many points a running mean goes; 1 where there are few."""
    return 1 if count < SHORT else max(3, count // 15)


def running(values: Sequence[float], window: int) -> list[float]:
    """Means of each value and those right before it.

    >>> running([0.0, 2.0, 4.0], 2)
    [0.0, 1.0, 3.0]
    """
    return [fsum(values[max(0, end - window) : end]) / min(end, window) for end in range(1, len(values) + 1)]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two ends, their own distance from one another.

    >>> ticks(0, 1), ticks(3, 98), ticks(2, 2)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [20.0, 40.0, 60.0, 80.0], [2.0])
    """
    if not high > low:
        return [float(low)]
    rough = (high - low) / most
    unit = 10.0 ** int(log10(rough) // 1)
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first = ceil(low / step - 1e-9)
    return [round((first + place) * step, 12) for place in range(int((high - first * step) / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis or a card.

    >>> [short(value) for value in (0, 0.25, 12.5, 1234567, 0.000012, -3e-12, 1e15)]
    ['0', '0.25', '12.5', '1.23M', '1.2e-05', '-3e-12', '1e+15']
    """
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if unit <= size < 1e13:
            return f"{value / (1e3 if letter == 'k' else unit):.3g}{letter}"
    if size and (size < 1e-3 or size >= 1e13):
        return f"{value:.2g}"
    return f"{value:.4g}" if size >= 1000 else f"{value:.3g}"
