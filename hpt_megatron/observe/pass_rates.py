"""How often a model is right: avg@n and pass@k by data source, with what chance alone would move them by.

    avg@n     mean success over all responses to a prompt, then over prompts
    pass@k    chance that any of k responses is right: 1 - C(n - c, k) / C(n, k) of n responses with c right, which is
              unbiased where "any of the first k" is not, and uses all n for every k

An interval holds 95 % of the means over prompts that are drawn again from those there are, with replacement and a seed.
It says how far other prompts of the same kind would move a figure; not how far other samples of the same prompts would.

Invariants
    1. A response that could not be scored counts neither as a response nor as a failure; a prompt with fewer than k
       left has no pass@k, and counts in no figure that needs one.
    2. The same responses give the same intervals.

Example:
    >>> told = figures([Group("count", (1.0, 0.0), (True, False)), Group("count", (0.0, 0.0), (False, False))], [1, 2])
    >>> told["count"]["pass@1"].value, told["count"]["pass@2"].value
    (0.25, 0.5)
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import comb
from statistics import fmean

import numpy as np

RESAMPLES, SHARE = 2000, 0.95
ALL, UNNAMED = "all", "(no data source)"


@dataclass(frozen=True)
class Group:
    """The responses to one prompt that were scored."""

    source: str
    scores: tuple[float, ...]
    successes: tuple[bool, ...]


@dataclass(frozen=True)
class Figure:
    """A mean over prompts, between which it would lie for other prompts, and over how many it is."""

    value: float
    low: float
    high: float
    prompts: int


def pass_at(n: int, right: int, k: int) -> float:
    """The chance that k of n responses, drawn without replacement, hold one of those that are right.

    >>> pass_at(4, 1, 2), pass_at(4, 0, 2), pass_at(4, 3, 2)
    (0.5, 0.0, 1.0)
    """
    if not 0 < k <= n:
        raise ValueError(f"{k} of {n} responses")
    return 1.0 - comb(n - right, k) / comb(n, k)


def figures(groups: Sequence[Group], ks: Sequence[int], seed: int = 0) -> dict[str, dict[str, Figure]]:
    """By data source, and of all together where there are several."""
    return {
        source: {name: Figure(fmean(values), *interval(values, seed), len(values)) for name, values in each.items()}
        for source, each in values_of(groups, ks).items()
    }


def values_of(groups: Sequence[Group], ks: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """What each prompt says of each figure, by data source; a figure is the mean of them."""
    by_source: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_source[group.source or UNNAMED].append(group)
    told = {source: _of_source(own, ks) for source, own in sorted(by_source.items())}
    return told if len(told) < 2 else {**told, ALL: _of_source(groups, ks)}


def _of_source(groups: Sequence[Group], ks: Sequence[int]) -> dict[str, list[float]]:
    most = max(len(group.successes) for group in groups)
    asked: dict[str, tuple[int, Callable[[Group], float]]] = {
        "mean_score": (1, lambda group: fmean(group.scores)),
        f"avg@{most}": (1, lambda group: fmean(group.successes)),
    }
    for k in ks:
        asked[f"pass@{k}"] = (k, partial(_pass_at, k=k))
    found = {}
    for name, (least, of_group) in asked.items():
        if values := [of_group(group) for group in groups if len(group.successes) >= least]:
            found[name] = values
    return found


def _pass_at(group: Group, k: int) -> float:
    return pass_at(len(group.successes), sum(group.successes), k)


def interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """Where 95 % of the means of as many values lie, drawn from these with replacement."""
    given, chance = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = [float(given[chance.integers(0, len(given), len(given))].mean()) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return float(low), float(high)


def powers(n: int) -> list[int]:
    """The k that are shown where nobody asks for others: 1, 2, 4, ... and n.

    >>> powers(6)
    [1, 2, 4, 6]
    """
    return sorted({*(1 << exponent for exponent in range(n.bit_length())), n})
