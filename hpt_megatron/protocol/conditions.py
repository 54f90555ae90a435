"""A score against a threshold: what gates and successes are made of, for one number or for a tensor of them.

Example:
    >>> Condition("format").met_by(1.0), Condition("score", ">", 0.1).met_by(0.1)
    (True, False)
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {">=": operator.ge, ">": operator.gt}


@dataclass(frozen=True)
class Condition:
    """One reward component against a threshold."""

    component: str
    op: str = ">="
    value: float = 1.0

    def met_by(self, score: Any) -> Any:
        """Whether a score meets it; of a tensor, one answer for each."""
        return OPERATORS[self.op](score, self.value)
