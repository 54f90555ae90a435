"""One thing wrong with a run: where, which value, why, and what would be right.

Errors keep a run from starting; warnings say what will surprise. Example:

    >>> print(Problem("layout.tp", 3, "does not divide the 16 attention heads", "2 or 4"))
    error: layout.tp = 3: does not divide the 16 attention heads; right would be: 2 or 4
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher, get_close_matches
from math import isfinite
from typing import Any, Literal


@dataclass(frozen=True)
class Problem:
    """A violation of one rule, complete enough to be mended from its line alone."""

    path: str
    value: Any
    why: str
    right: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else json.dumps(self.value, default=str)
        stated = f"{one_line(self.path)} = {one_line(value)}" if value else one_line(self.path) or '""'
        line = f"{self.severity}: {stated}: {one_line(self.why)}"
        return f"{line}; right would be: {one_line(self.right)}" if self.right else line

    def as_json(self) -> dict[str, Any]:
        """The fields, for machines; JSON has no name for infinity and nan, so they become text."""
        endless = isinstance(self.value, float) and not isfinite(self.value)
        return {**asdict(self), "value": str(self.value) if endless else self.value}


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """Those that keep a run from starting."""
    return [problem for problem in problems if problem.severity == "error"]


def counted(number: int, what: str) -> str:
    """A number with its noun: 1 error, 2 errors."""
    return f"{number} {what}{'s' * (number != 1)}"


def one_line(text: str) -> str:
    """The text itself, or its JSON spelling when a character of it would break or hide the line."""
    return text if text.isprintable() else json.dumps(text)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most alike, or an empty string.

    A dotted name is first compared as a whole, then by its last part alone, because people remember the last part.

    Example:
        >>> nearest("trainer.learning_rat", ["trainer.learning_rate", "model.path"])
        'trainer.learning_rate'
        >>> nearest("switch_gate", ["algorithm.switch_gate", "algorithm.unify_strategy"])
        'algorithm.switch_gate'
    """
    known = list(known)
    leaf = name.rpartition(".")[2]
    same_leaf = [other for other in known if other.rpartition(".")[2] == leaf]
    whole = get_close_matches(name, same_leaf or known, n=1, cutoff=0.0 if same_leaf else 0.7)
    # A shared group must not make up for last parts that have little in common.
    alike = SequenceMatcher(None, leaf, whole[0].rpartition(".")[2]).ratio() if whole else 0.0
    if alike >= (0.5 if len(leaf) <= 3 else 0.7):
        return whole[0]
    by_leaf = {other.rpartition(".")[2]: other for other in known}
    close = get_close_matches(leaf, by_leaf, n=1, cutoff=0.7)
    return by_leaf[close[0]] if close else ""


def neighbours(value: int, divisor: int) -> str:
    """The multiples of `divisor` on both sides of `value`, as text.

    Example:
        >>> neighbours(10, 8), neighbours(3, 8)
        ('8 or 16', '8')
    """
    below = value // divisor * divisor
    return f"{below} or {below + divisor}" if below else str(divisor)


def divisors(value: int, most: int) -> str:
    """The divisors of `value` up to `most`, as text."""
    return ", ".join(str(candidate) for candidate in range(1, min(value, most) + 1) if value % candidate == 0)
