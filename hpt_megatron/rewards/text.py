"""Answers compared as text: exact match, the F1 of their words, and ANLS.

`normalised` is SQuAD's rule (lower case, no punctuation, no articles, single spaces) after Unicode's NFKC, with one
difference: a sign or a decimal point before a digit stays, so that -5 is not 5 and 3.5 is not 35.

ANLS takes 1 - distance / longer length for each gold, and 0 where distance / longer length reaches `threshold`.

Invariants
    1. All scores lie in [0, 1]; the best gold counts. Equal texts score 1 in all three.
    2. An answer that is empty once normalised matches no gold that is not the same text.
    3. The time of `distance` grows with (length of a) * (length of b) / 64, and texts whose lengths rule a match out
       are not compared at all.

Example:
    >>> normalised("The  Eiffel Tower!"), normalised("-5"), normalised("1,000")
    ('eiffel tower', '-5', '1000')
    >>> round(f1("the cat sat", "a cat sat down"), 3), round(anls("helo", "hello", 0.5), 3), anls("no", "hello", 0.5)
    (0.8, 0.8, 0.0)
"""

import re
import string
import unicodedata
from collections import Counter
from dataclasses import dataclass

from hpt_megatron.errors import UserError
from hpt_megatron.rewards.component import COMPONENTS, Result, Sample, of_golds

MINUS = {ord("\N{MINUS SIGN}"): "-"}
MEANT = re.compile(r"(?<!\w)[-+](?=\.?\d)|\.(?=\d)")
ARTICLES = {"a", "an", "the"}


def folded(text: str) -> str:
    """Compatible characters as one, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(MINUS).casefold().split())


def normalised(text: str) -> str:
    """What two answers must share to be the same."""
    folds = folded(text)
    meant = {match.start() for match in MEANT.finditer(folds)}
    kept = "".join(c for i, c in enumerate(folds) if i in meant or not _is_punctuation(c))
    return " ".join(word for word in kept.split() if word not in ARTICLES)


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def same(answer: str, gold: str) -> bool:
    """Equal once normalised; texts of which nothing is left then (`the`, `+`) are compared as they are."""
    left, right = normalised(answer), normalised(gold)
    return left == right if left or right else folded(answer) == folded(gold)


def f1(answer: str, gold: str) -> float:
    """The harmonic mean of precision and recall over words, each as often as it occurs."""
    left, right = normalised(answer).split(), normalised(gold).split()
    if not left or not right:
        return float(same(answer, gold))
    shared = sum((Counter(left) & Counter(right)).values())
    return 2 * shared / (len(left) + len(right))


def distance(a: str, b: str) -> int:
    """Levenshtein's, a whole column at a time as the bits of one number (Myers 1999, Hyyro 2001).

    >>> distance("kitten", "sitting"), distance("", "abc")
    (3, 3)
    """
    if not a:
        return len(b)
    places: dict[str, int] = {}
    for i, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << i
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, found = full, 0, len(a)
    for character in b:
        equal = places.get(character, 0)
        vertical = equal | down
        horizontal = (((equal & up) + up) ^ up) | equal
        right, left = (down | ~(horizontal | up)) & full, up & horizontal
        found += bool(right & last) - bool(left & last)
        right, left = (right << 1 | 1) & full, (left << 1) & full
        up, down = (left | ~(vertical | right)) & full, right & vertical
    return found


def anls(answer: str, gold: str, threshold: float) -> float:
    """The normalised similarity of one answer and one gold, 0 below 1 - threshold."""
    left, right = folded(answer), folded(gold)
    longer = max(len(left), len(right))
    if longer == 0:
        return 1.0
    if abs(len(left) - len(right)) / longer >= threshold:
        return 0.0
    share = distance(left, right) / longer
    return 1.0 - share if share < threshold else 0.0


@COMPONENTS.add("exact_match")
@dataclass(frozen=True)
class ExactMatch:
    """1 where the answer is a gold, else 0."""

    def score(self, sample: Sample) -> Result:
        """Whether any gold is the same text."""
        return of_golds(sample, [float(same(sample.answer or "", gold)) for gold in sample.golds])


@COMPONENTS.add("f1")
@dataclass(frozen=True)
class TokenF1:
    """The F1 of the words."""

    def score(self, sample: Sample) -> Result:
        """The best F1 over the golds."""
        return of_golds(sample, [f1(sample.answer or "", gold) for gold in sample.golds])


@COMPONENTS.add("anls")
@dataclass(frozen=True)
class Anls:
    """Average normalised Levenshtein similarity; the papers' threshold is 0.5."""

    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(f"{self.threshold} is no threshold of ANLS", where="threshold", mend="above 0, at most 1")

    def score(self, sample: Sample) -> Result:
        """The best similarity over the golds."""
        return of_golds(sample, [anls(sample.answer or "", gold, self.threshold) for gold in sample.golds])
