"""Answers that mean more than their letters: numbers with a tolerance, and the options of a multiple choice.

Decision: where an answer names several numbers or several options it is wrong, whichever of them is right. Taking the
last, the first or the most alike would pay for answers that hedge.

A number is read without its unit: `45%`, `45 kg` and `45` are the same, and so are `5 kg` and `5 g`; a per cent is not
divided by 100. `1/2` is a half, `1,234.5` has thousands. Digits that follow a letter (`m2`) belong to the unit.

Invariants
    1. Scores are 0 or 1.
    2. A gold that is no number, or no option, makes the row invalid: the data are wrong, not the answer.

Example:
    >>> number("about 1,234.5 kg"), number("-1/4"), number("3 or 4")
    (1234.5, -0.25, None)
    >>> option("(B)", ["cat", "dog"]), option("Dog.", ["cat", "dog"]), option("A or B", ["cat", "dog"])
    (1, 1, None)
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from hpt_megatron.errors import UserError
from hpt_megatron.rewards.component import COMPONENTS, NO_ANSWER, NO_GOLD, Result, Sample
from hpt_megatron.rewards.text import MINUS, folded, same

UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
NUMBER = re.compile(rf"(?<![\w.])([-+]?(?:{UNSIGNED})(?:[eE][-+]?[0-9]{{1,3}}(?![0-9]))?)(?:/([0-9]+))?")
LETTER = re.compile(r"[(\[]?([A-Z])[)\].:,]*")
LED_BY_LETTER = re.compile(r"(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z])[).:]) ?(.*)")
STATED = re.compile(r"\b(?:answer|option|choice)(?: is)? ?:? ?(?:option )?[(\[]?([A-Z])\b", re.IGNORECASE)


def number(text: str) -> float | None:
    """The one finite number in a text; None where there is none, or more than one."""
    found = NUMBER.findall(unicodedata.normalize("NFKC", text).replace("\N{FRACTION SLASH}", "/").translate(MINUS))
    if len(found) != 1:
        return None
    above, below = found[0]
    value = float(above.replace(",", "")) / (float(below) or math.nan if below else 1.0)
    return value if math.isfinite(value) else None


def option(text: str, choices: Sequence[str]) -> int | None:
    """The one option that a text names, by its letter or its words; None where it names none or contradicts itself."""
    stated = " ".join(unicodedata.normalize("NFKC", text).split())
    literally = [i for i, choice in enumerate(choices) if folded(stated) == folded(choice)]
    if len(literally) == 1:
        return literally[0]
    if alone := LETTER.fullmatch(stated):
        return _place(alone[1], choices)
    # Before the words: once normalised, the letter of `A) Paris` is an article and gone.
    if led := LED_BY_LETTER.fullmatch(stated):
        place, words = _place(led[1] or led[2] or led[3], choices), _worded(led[4], choices)
        return place if words in (None, place) else None
    by_words = _worded(stated, choices)
    if by_words is not None:
        return by_words
    letters = {letter.upper() for letter in STATED.findall(stated)}
    return _place(letters.pop(), choices) if len(letters) == 1 else None


def _worded(text: str, choices: Sequence[str]) -> int | None:
    alike = [i for i, choice in enumerate(choices) if same(text, choice)]
    return alike[0] if len(alike) == 1 else None


def _place(letter: str, choices: Sequence[str]) -> int | None:
    place = ord(letter) - ord("A")
    return place if 0 <= place < len(choices) else None


@COMPONENTS.add("number")
@dataclass(frozen=True)
class Number:
    """1 where the answer is a gold number within a relative or an absolute tolerance."""

    rel_tol: float = 1e-6
    abs_tol: float = 1e-9

    def __post_init__(self) -> None:
        if not 0 <= self.rel_tol < 1:
            raise UserError(f"a tolerance of {self.rel_tol}", where="rel_tol", mend="0 to below 1")
        if self.abs_tol < 0:
            raise UserError(f"a tolerance of {self.abs_tol}", where="abs_tol", mend="0 or more")

    def score(self, sample: Sample) -> Result:
        """Of the tolerance the gold is the measure, not the answer, so a huge answer widens nothing."""
        golds = [gold for gold in map(number, sample.golds) if gold is not None]
        if not golds:
            return Result(0.0, ("gold_is_no_number" if sample.golds else NO_GOLD,), valid=False)
        if sample.answer is None:
            return Result(0.0, (NO_ANSWER,))
        value = number(sample.answer)
        if value is None:
            return Result(0.0, ("not_one_number",))
        return Result(float(any(abs(value - gold) <= max(self.rel_tol * abs(gold), self.abs_tol) for gold in golds)))


@COMPONENTS.add("choice")
@dataclass(frozen=True)
class Choice:
    """1 where the answer names the right option; golds are letters or the options' words."""

    def score(self, sample: Sample) -> Result:
        """Against every gold that is an option."""
        golds = {gold for gold in (option(text, sample.choices) for text in sample.golds) if gold is not None}
        if not golds:
            return Result(0.0, ("gold_is_no_option" if sample.golds else NO_GOLD,), valid=False)
        if sample.answer is None:
            return Result(0.0, (NO_ANSWER,))
        named = option(sample.answer, sample.choices)
        return Result(0.0, ("not_one_option",)) if named is None else Result(float(named in golds))
