"""How well the pages found are the pages that hold the answer: NDCG, recall, and the reciprocal rank of the first hit.

Pages count in the order of their first appearance in the trajectory, each under its name of `protocol/pages.py`.

    NDCG = sum over hits of 1 / log2(rank + 1)   over   the same sum for all gold pages in front

Invariants
    1. All scores lie in [0, 1]; a page shown twice counts once.
    2. The ideal is that of all gold pages (with a cut-off k, of the first k), however few were retrieved.
    3. Without gold pages the row is invalid.

Example:
    >>> round(ndcg(["b", "a"], {"a"}), 4), recall(["b", "a"], {"a", "c"}), reciprocal_rank(["b", "a"], {"a"})
    (0.6309, 0.5, 0.5)
"""

import math
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from hpt_megatron.errors import UserError
from hpt_megatron.protocol.pages import canonical
from hpt_megatron.rewards.component import COMPONENTS, Result, Sample


def ndcg(pages: Sequence[str], gold: AbstractSet[str], k: int = 0) -> float:
    """Of distinct pages in order against at least one gold page."""
    pages = pages[: k or None]
    gained = sum(1 / math.log2(rank + 1) for rank, page in enumerate(pages, 1) if page in gold)
    return gained / sum(1 / math.log2(rank + 1) for rank in range(1, min(k or len(gold), len(gold)) + 1))


def recall(pages: Sequence[str], gold: AbstractSet[str]) -> float:
    """The share of gold pages among those found."""
    return len(gold & set(pages)) / len(gold)


def reciprocal_rank(pages: Sequence[str], gold: AbstractSet[str]) -> float:
    """1 / rank of the first hit, 0 without one."""
    return next((1 / rank for rank, page in enumerate(pages, 1) if page in gold), 0.0)


@dataclass(frozen=True)
class Retrieval:
    """What the measures share: the first `k` distinct pages, all with k = 0."""

    k: int = 0

    def __post_init__(self) -> None:
        if self.k < 0:
            raise UserError(f"a cut-off of {self.k} pages", where="k", mend="1 or more, or 0 for all")

    def _measure(self, sample: Sample, measure: Callable[[Sequence[str], AbstractSet[str]], float]) -> Result:
        gold = {canonical(page) for page in sample.reference}
        if not gold:
            return Result(0.0, ("no_reference",), valid=False)
        pages = list(dict.fromkeys(canonical(page) for page in sample.retrieved))
        return Result(measure(pages[: self.k or None], gold), details={"pages": float(len(pages))})


@COMPONENTS.add("ndcg")
@dataclass(frozen=True)
class Ndcg(Retrieval):
    """Normalised discounted cumulative gain."""

    def score(self, sample: Sample) -> Result:
        """With a cut-off, no more gold pages are expected than it leaves room for."""
        return self._measure(sample, lambda pages, gold: ndcg(pages, gold, self.k))


@COMPONENTS.add("recall")
@dataclass(frozen=True)
class Recall(Retrieval):
    """The share of gold pages found."""

    def score(self, sample: Sample) -> Result:
        """Over all gold pages, also with a cut-off."""
        return self._measure(sample, recall)


@COMPONENTS.add("mrr")
@dataclass(frozen=True)
class ReciprocalRank(Retrieval):
    """1 / rank of the first gold page; with k = 1 whether the first page is one (hit@1)."""

    def score(self, sample: Sample) -> Result:
        """0 where none was found."""
        return self._measure(sample, reciprocal_rank)
