"""A sender's buffer in two halves: one is packed while the other is on its way.

A parcel larger than a half has the whole buffer to itself.

Invariants
    1. A place is given out again only once `finish` has waited for what was there.
    2. What is on its way is finished in the order in which it was given out.

Example: three parcels of 8 bytes lie at 0, at 8, and, once the first is finished, at 0 again.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hpt_megatron.weights.plan.parcels import Parcel

ALIGNED = 64
OnItsWay = tuple[Parcel, Any]


def halves(sizes: Sequence[tuple[int, bool]]) -> tuple[int, int]:
    """The size of a half and of the whole buffer, for parcels of (bytes, oversize).

    Example:
        >>> halves([(100, False), (60, False), (500, True)])
        (128, 500)
    """
    half = max((size for size, oversize in sizes if not oversize), default=0)
    half = -(-half // ALIGNED) * ALIGNED
    return half, max(2 * half, max((size for size, _ in sizes), default=0), 1)


class Halves:
    """Where the next parcel goes; `finish` waits for one that is on its way."""

    def __init__(self, half: int, finish: Callable[[Parcel, Any], None]) -> None:
        self.half, self._finish = half, finish
        self._away: deque[OnItsWay] = deque()
        self._turn = 0

    def place(self, parcel: Parcel) -> int:
        """The byte from which on a parcel may be packed."""
        if parcel.size > self.half:
            self.finish_all_but(0)
            return 0
        self.finish_all_but(1)
        if any(other.size > self.half for other, _ in self._away):
            self.finish_all_but(0)
        at, self._turn = self._turn * self.half, 1 - self._turn
        return at

    def sent(self, parcel: Parcel, waiting: Any) -> None:
        """A parcel is on its way; `waiting` is what `finish` will be told of it."""
        self._away.append((parcel, waiting))

    def finish_all_but(self, count: int) -> None:
        """Waits until no more than so many are on their way."""
        while len(self._away) > count:
            self._finish(*self._away.popleft())

    def forget(self) -> None:
        """Nothing is waited for any more."""
        self._away.clear()
