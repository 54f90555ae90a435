"""How far two judgements of the same things agree: correlation, order of pairs, agreement beyond chance, intervals.

Invariants
    1. What is not defined (one value alone, no spread, no pair that differs) is None, never 0.
    2. The same numbers and seed give the same interval.

Example:
    >>> pearson([1, 2, 3], [2, 4, 6]), spearman([1, 2, 3], [1, 10, 5]), kappa([True, True, False], [True, False, False])
    (1.0, 0.5, 0.4)
"""

import math
import random
from collections.abc import Callable, Hashable, Sequence
from itertools import combinations
from statistics import fmean

RESAMPLES, SHARE, Z = 1000, 0.95, 1.959964
Numbers = Sequence[float]
Interval = tuple[float, float]


def pearson(one: Numbers, other: Numbers) -> float | None:
    """The linear correlation."""
    if len(one) < 2:
        return None
    means = fmean(one), fmean(other)
    a, b = [value - means[0] for value in one], [value - means[1] for value in other]
    spread = math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))
    return round(math.fsum(x * y for x, y in zip(a, b, strict=True)) / spread, 12) if spread > 0 else None


def ranks(values: Numbers) -> list[float]:
    """The place of each value in order, from 1; equal values share the mean of their places.

    >>> ranks([10, 20, 10])
    [1.5, 3.0, 1.5]
    """
    order = sorted(range(len(values)), key=lambda place: values[place])
    told, start = [0.0] * len(values), 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            told[place] = (start + end) / 2 + 1
        start = end + 1
    return told


def spearman(one: Numbers, other: Numbers) -> float | None:
    """The correlation of the ranks."""
    return pearson(ranks(one), ranks(other)) if len(one) > 1 else None


def ordered_alike(people: Numbers, reward: Numbers) -> tuple[float | None, int]:
    """Of the pairs that people tell apart, the share that the reward puts in the same order, its ties as a half.

    >>> ordered_alike([1, 2, 2], [0.0, 1.0, 0.0])
    (0.75, 2)
    """
    hits: list[float] = []
    for i, j in combinations(range(len(people)), 2):
        if people[i] != people[j]:
            difference = (reward[i] - reward[j]) * (1 if people[i] > people[j] else -1)
            hits.append(1.0 if difference > 0 else 0.5 if difference == 0 else 0.0)
    return (fmean(hits), len(hits)) if hits else (None, 0)


def kappa(one: Sequence[Hashable], other: Sequence[Hashable]) -> float | None:
    """Cohen's kappa: agreement beyond that of two who choose by chance as often as these do."""
    if not one:
        return None
    total = len(one)
    seen = sum(a == b for a, b in zip(one, other, strict=True)) / total
    chance = sum(list(one).count(label) * list(other).count(label) for label in {*one, *other}) / total**2
    return round((seen - chance) / (1 - chance), 12) if chance < 1 else None


def resampled(
    pairs: Sequence[tuple[float, float]], statistic: Callable[[Numbers, Numbers], float | None], seed: int = 0
) -> Interval | None:
    """Where 95 % of the statistic lie over as many pairs drawn from these with replacement."""
    if len(pairs) < 3:
        return None
    chance, found = random.Random(seed), []
    for _ in range(RESAMPLES):
        drawn = chance.choices(pairs, k=len(pairs))
        value = statistic([a for a, _ in drawn], [b for _, b in drawn])
        if value is not None:
            found.append(value)
    if len(found) < RESAMPLES // 2:
        return None
    found.sort()
    edge = (1 - SHARE) / 2
    return found[int(edge * (len(found) - 1))], found[round((1 - edge) * (len(found) - 1))]


def wilson(share: float, count: int) -> Interval | None:
    """Wilson's interval of a share, 95 %. Of a mean of numbers from 0 to 1 it is never too narrow.

    >>> [round(edge, 3) for edge in wilson(1.0, 10)]
    [0.722, 1.0]
    """
    if count < 1:
        return None
    middle = share + Z * Z / (2 * count)
    half = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    scale = 1 + Z * Z / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
