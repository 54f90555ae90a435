r"""Answers compared as mathematics.

The answer is taken from the policy's text (`extract`), where asked for from what follows the thinking (`think`), and
held against every gold: first as text in one spelling, then as numbers where `rel_tol` is set, then as mathematics:

    string   no further
    sympy    the difference simplifies to 0
    verify   math-verify
    any      math-verify or sympy

Decision: a component that computes on what a model wrote runs in a process (`place`). Called directly it works, without
a time limit.

Invariants
    1. An answer that is too heavy to be looked at is wrong, and flagged; it is never parsed. Equal spellings are right
       before that.
    2. A gold that is not understood makes the row invalid unless the answer is spelled the same.
    3. A gold that is a word is compared as text alone: letters would be factors, in any order. So is one whose words
       change its number (`3 million`), and an answer like that is right as text or not at all.
    4. A failure of math-verify or sympy is flagged `not_compared` where nothing else is equal.

Example:
    >>> half = Sample(turns=(r"so \boxed{0.5}",), golds=(r"\frac{1}{2}",))
    >>> Mathematics().score(half).score, Mathematics(equal="string").score(half).score
    (1.0, 0.0)
    >>> Mathematics().score(Sample(turns=(r"\boxed{9^{9^9}}",), golds=("9",))).flags
    ('tower',)
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from hpt_megatron.errors import UserError
from hpt_megatron.rewards.answers import number
from hpt_megatron.rewards.component import COMPONENTS, NO_ANSWER, NO_GOLD, ComponentError, Place, Result, Sample
from hpt_megatron.rewards.math_text import (
    BOX,
    LONGEST,
    after_thinking,
    boxed,
    is_word,
    says_more,
    spelled,
    stated,
    too_heavy,
    written,
)

UNREADABLE = "gold_not_understood"


@COMPONENTS.add("math")
@dataclass(frozen=True)
class Mathematics:
    """`right` where the answer is a gold, `wrong` where it is none, `unformatted` without an answer to compare."""

    place: ClassVar[Place] = "process"

    extract: Literal["box", "text", "stated"] = "box"
    think: Literal["none", "required"] = "none"
    equal: Literal["string", "sympy", "verify", "any"] = "any"
    rel_tol: float = 0.0
    right: float = 1.0
    wrong: float = 0.0
    unformatted: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rel_tol < 1:
            raise UserError(f"a tolerance of {self.rel_tol}", where="rel_tol", mend="0 (none) to below 1")

    def score(self, sample: Sample) -> Result:
        """The best over the golds."""
        looked = self._looked(sample)
        return looked if isinstance(looked, Result) else self._compared(*looked)

    def at_once(self, sample: Sample) -> Result | None:
        """The result where a look is enough, in no more than linear time; None where something has to be computed."""
        looked = self._looked(sample)
        return looked if isinstance(looked, Result) else None

    def _looked(self, sample: Sample) -> "Result | tuple[str, list[str], bool]":
        """A result, or what is to be compared."""
        golds = [inside if (inside := boxed(gold)) is not None else gold.strip() for gold in sample.golds]
        if not any(golds):
            return Result(self.unformatted, (NO_GOLD,), valid=False)
        text: str | None = "\n".join(sample.turns)
        if self.think == "required":
            text = after_thinking(text or "")
        if text is None:
            return Result(self.unformatted, ("no_think",))
        answer, whole = self._answer(text, sample)
        if not answer:
            return Result(self.unformatted, ("no_box" if self.extract == "box" else NO_ANSWER,))
        if any(spelled(answer) == spelled(gold) or self._close(answer, gold) for gold in golds):
            return Result(self.right)
        symbolic = [gold for gold in golds if not is_word(gold) and not says_more(gold)]
        if self.equal == "string" or not symbolic:
            return Result(self.wrong)
        refused = too_heavy(answer) or ("words" if whole and says_more(answer) else None)
        return Result(self.wrong, (refused,)) if refused else (answer, symbolic, whole)

    def _answer(self, text: str, sample: Sample) -> tuple[str | None, bool]:
        """The answer, and whether it is one: running text has its answer somewhere inside."""
        inside = boxed(text)
        if inside is not None or self.extract == "box":
            return inside, True
        if sample.answer is not None:
            return sample.answer, True
        if self.extract == "text":
            return text[-LONGEST:].strip(), False
        said = stated(text)
        return None if said is None or BOX.search(said) else said, True  # a box that never closes is none

    def _close(self, answer: str, gold: str) -> bool:
        if not self.rel_tol:
            return False
        left, right = number(spelled(answer)), number(spelled(gold))
        return left is not None and right is not None and abs(left - right) <= self.rel_tol * abs(right)

    def _compared(self, answer: str, golds: list[str], whole: bool) -> Result:
        from hpt_megatron.rewards.math_equality import (
            simplified,
            understood,
            understood_gold,
            understood_text,
            verified,
        )

        readable = [gold for gold in (understood_gold(written(gold)) for gold in golds if not too_heavy(gold)) if gold]
        if not readable:
            return Result(self.wrong, (UNREADABLE,), valid=False)
        said = understood(written(answer)) if whole else understood_text(written(answer))
        if not said:
            return Result(self.wrong, ("not_understood",))
        raised = False
        for compare in [verified] * (self.equal != "sympy") + [simplified] * (self.equal != "verify"):
            equal = [compare(gold, said) for gold in readable]
            if True in equal:
                return Result(self.right)
            raised = raised or None in equal
        return Result(self.wrong, ("not_compared",) if raised else ())

    def self_test(self) -> None:
        """What a worker asks before its first sample: whether 0.5 is a half, and 0.6 is none."""
        found = [Mathematics().score(Sample(turns=(f"\\boxed{{{x}}}",), golds=("\\frac{1}{2}",))) for x in (0.5, 0.6)]
        if [result.score for result in found] != [1.0, 0.0]:
            raise ComponentError("self_test", f"1/2 against 0.5 and 0.6 scores {[result.score for result in found]}")


@COMPONENTS.add("boxed_format")
@dataclass(frozen=True)
class BoxedFormat:
    """1 where a thinking ends and a box follows it; without `think`, where there is a box."""

    think: bool = True

    def score(self, sample: Sample) -> Result:
        """Of all turns together."""
        text: str | None = "\n".join(sample.turns)
        rest = after_thinking(text or "") if self.think else text
        if rest is None:
            return Result(0.0, ("no_think",))
        return Result(1.0) if boxed(rest) is not None else Result(0.0, ("no_box",))
