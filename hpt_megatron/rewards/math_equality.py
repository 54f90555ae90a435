r"""Whether two answers are the same mathematics, by math-verify and sympy.

Decision: this computes, so it belongs into a process that can be killed (`workers.py`); nothing here looks at a clock.
math-verify's own limits work in the main thread alone and are switched off. LaTeX goes through its grammar. What is no
LaTeX reaches sympy's parser as digits, brackets and operators alone, by math-verify's pattern: no letter, so no name.

Invariants
    1. A gold that is not understood is None, never an empty match.
    2. Memory that runs out is raised. Any other failure of the two packages is None where equality is asked for.

Example:
    >>> gold = understood_gold(r"\frac{1}{2}")
    >>> verified(gold, understood("0.5")), verified(gold, understood("0.6")), understood_gold("}{")
    (True, False, None)
    >>> simplified(understood_gold("(x+1)^2"), understood("x^2+2x+1"))
    True
"""

import logging
from dataclasses import replace
from typing import Any

Understood = list[Any]  # sympy expressions, most often one


def _parsed(text: str, *, expressions: bool) -> Understood:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    # It warns once in each process that the limits are off.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # Its list of units has c, d, g, h, l, m, o, s, t, `ab` and `more`: 2t would be 2.
    normal = replace(LatexExtractionConfig().normalization_config, units=False)
    kinds: list[Any] = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=normal)]
    if expressions:
        kinds.append(ExprExtractionConfig())
    try:
        return list(parse(text, kinds, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:
        return []


def understood_gold(gold: str) -> Understood | None:
    """A right answer in LaTeX, without its box."""
    return _parsed(f"\\boxed{{{gold}}}", expressions=False) or _parsed(gold, expressions=True) or None


def understood(answer: str) -> Understood:
    """An answer that stood in a box or was stated."""
    return _parsed(f"\\boxed{{{answer}}}", expressions=False) or _parsed(answer, expressions=True)


def understood_text(text: str) -> Understood:
    """The answer that math-verify finds in running text."""
    return _parsed(text, expressions=True)


def verified(gold: Understood, answer: Understood) -> bool | None:
    """As math-verify compares: to 6 decimals, with sets, intervals and relations. None where it fails."""
    from math_verify import verify

    try:
        return bool(verify(gold, answer, timeout_seconds=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:
        return None


def simplified(gold: Understood, answer: Understood) -> bool | None:
    """Whether a difference simplifies to 0, or two objects that have none are the same. None where sympy fails."""
    found = [_no_difference(one, other) for one in gold for other in answer]
    return True in found or (None if None in found else False)


def _no_difference(gold: Any, answer: Any) -> bool | None:
    from sympy import Expr, Rational, nsimplify, simplify

    try:
        if gold == answer:
            return True
        if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
            return False
        # 0.5 is a half here, as it is on paper.
        return bool(simplify(nsimplify(gold, rational=True) - nsimplify(answer, rational=True)) == Rational(0))
    except MemoryError:
        raise
    except Exception:
        return None
