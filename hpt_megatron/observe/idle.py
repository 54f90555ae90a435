"""How long each role had nothing to do in a step: what is left of it where none of the role's stages ran.

Stages may overlap, and a role that works in two at once works once: spans are joined before they are measured.

Example:
    >>> idle([Span("generate", 0.0, 2.0), Span("update", 2.0, 3.0)], 4.0)
    {'trainer': 3.0, 'rollout': 2.0}
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A stage from its begin to its end, in seconds since the step began."""

    name: str
    begin: float
    end: float


WORK = {
    "trainer": {
        *("publish", "old_log_prob", "reference", "values", "update", "update_critic", "demo_loss"),
        *("compare", "reward_models"),
    },
    "rollout": {"publish", "generate", "generate_more", "validate"},
}
"""Stages in which a role has something to do; in `publish` both have."""


def idle(spans: Sequence[Span], seconds: float) -> dict[str, float]:
    """Seconds without work by role, of a step that took so many."""
    return {role: max(0.0, seconds - covered(each for each in spans if each.name in own)) for role, own in WORK.items()}


def covered(spans: Iterable[Span]) -> float:
    """Seconds in which at least one of the spans runs.

    >>> covered([Span("a", 0.0, 2.0), Span("b", 1.0, 3.0), Span("c", 5.0, 6.0)])
    4.0
    """
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda each: each.begin):
        total += max(0.0, span.end - max(span.begin, until))
        until = max(until, span.end)
    return total
