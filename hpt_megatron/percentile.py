"""Percentiles by nearest rank: each is a value that occurred, none is between two of them.

Example:
    >>> percentile([1, 2, 3, 4], 50), percentile([1, 2, 3, 4], 95), percentile([7], 1)
    (2, 4, 7)
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def percentile(ordered: Sequence[T], percent: int) -> T:
    """Of at least one value, in order: the first that `percent` of a hundred do not exceed."""
    return ordered[max(-(-percent * len(ordered) // 100), 1) - 1]
