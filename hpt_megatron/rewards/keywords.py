"""Words that a response is paid or fined for.

Decision: a keyword is looked for in the policy's text after NFKC and in lower case. Where it begins or ends with a
letter that has two cases, no other letter or digit may touch it there, so `right` is not in `bright` nor `correct` in
`incorrect`. Scripts without cases attach endings to words, so there a keyword may stand inside one.

A policy learns to write keywords. Prefer `exact_match` wherever there is a gold answer; `accuracy` does so itself.

Invariants
    1. accuracy is 0 or 1.
    2. quality is reward_scale, penalty_scale, their sum, or 0; each counts once however many words are found, and with
       `per_hit` once for each different keyword found.

Example:
    >>> found(["right", "yes"], "Bright idea. YES!")
    ['yes']
    >>> mixed = Sample(turns=("neat, not wrong",))
    >>> Quality(quality_keywords=("neat",), negative_keywords=("wrong",)).score(mixed).score
    0.5
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hpt_megatron.rewards.component import COMPONENTS, Result, Sample, of_golds
from hpt_megatron.rewards.text import folded, same


def found(keywords: Sequence[str], text: str) -> list[str]:
    """Those keywords that occur, in their order."""
    inside = folded(text)
    return [keyword for keyword in keywords if _occurs(folded(keyword), inside)]


def _occurs(keyword: str, text: str) -> bool:
    at = text.find(keyword) if keyword else -1
    while at >= 0:
        end = at + len(keyword)
        before, after = text[at - 1 : at], text[end : end + 1]
        if not (_joins(keyword[0], before) or _joins(keyword[-1], after)):
            return True
        at = text.find(keyword, at + 1)
    return False


def _joins(edge: str, neighbour: str) -> bool:
    return edge.upper() != edge.lower() and neighbour.isalnum()


@COMPONENTS.add("accuracy")
@dataclass(frozen=True)
class Accuracy:
    """Exact match where there is a gold (or no keyword is set), else whether any keyword occurs."""

    correct_keywords: tuple[str, ...] = ()

    def score(self, sample: Sample) -> Result:
        """With a gold the keywords play no part."""
        if sample.golds or not self.correct_keywords:
            return of_golds(sample, [float(same(sample.answer or "", gold)) for gold in sample.golds])
        return Result(float(bool(found(self.correct_keywords, "\n".join(sample.turns)))), ("by_keyword",))


@COMPONENTS.add("quality")
@dataclass(frozen=True)
class Quality:
    """Pays for wanted words and fines unwanted ones; the fine is a negative `penalty_scale`."""

    quality_keywords: tuple[str, ...] = ()
    negative_keywords: tuple[str, ...] = ()
    reward_scale: float = 1.0
    penalty_scale: float = -0.5
    per_hit: bool = False

    def score(self, sample: Sample) -> Result:
        """Over all turns together."""
        text = "\n".join(sample.turns)
        wanted, unwanted = len(found(self.quality_keywords, text)), len(found(self.negative_keywords, text))
        if not self.per_hit:
            wanted, unwanted = min(wanted, 1), min(unwanted, 1)
        score = self.reward_scale * wanted + self.penalty_scale * unwanted
        return Result(score, details={"wanted": float(wanted), "unwanted": float(unwanted)})
