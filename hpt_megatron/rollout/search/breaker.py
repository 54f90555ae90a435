"""Stops calling a server that fails: after so many failures in a row nobody calls for a while, then one looks whether
it lives.

    closed --`most` failures in a row--> open --`cool_down_s` later, one probe--> closed, or open again

Invariants
    1. No clock in here: times are given.
    2. While open, one caller at a time is told to probe, all others are told no.

Example:
    >>> breaker = Breaker(most=1, cool_down_s=5)
    >>> breaker.failed(now=0.0); breaker.ask(now=1.0), breaker.ask(now=6.0), breaker.ask(now=6.0)
    ('no', 'probe', 'no')
"""

from dataclasses import dataclass
from typing import Literal


@dataclass
class Breaker:
    """Changes with what is reported to it."""

    most: int
    cool_down_s: float
    in_a_row: int = 0
    until: float | None = None
    probing: bool = False

    def ask(self, now: float) -> Literal["yes", "probe", "no"]:
        """Whether to call."""
        if self.until is None:
            return "yes"
        if now < self.until or self.probing:
            return "no"
        self.probing = True
        return "probe"

    def failed(self, now: float) -> None:
        """A call or a probe failed."""
        self.in_a_row += 1
        if self.in_a_row >= self.most or self.probing:
            self.until = now + self.cool_down_s
        self.probing = False

    def worked(self) -> None:
        """A call or a probe succeeded."""
        self.in_a_row, self.until, self.probing = 0, None, False
