"""What monitors remember of a run: of each number the first steps, the last ones, and the best mean between.

Invariants
    1. What is kept does not grow with the number of steps.
    2. It is a function of the numbers in their order: a resumed run makes it again from its files.

Example:
    >>> curve = Curve(window=2)
    >>> for number in (1.0, 3.0, 5.0, 1.0, 1.0): curve.add(number)
    >>> curve.first, curve.last, curve.best
    (2.0, 1.0, 4.0)
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from math import isfinite


class Curve:
    """One number over the steps that report it."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=window)
        self._means: deque[float] = deque(maxlen=window + 1)
        self._best: float | None = None

    def add(self, number: float) -> None:
        """The next one."""
        if len(self._first) < self.window:
            self._first.append(number)
        self._last.append(number)
        if len(self._last) == self.window:
            self._means.append(sum(self._last) / self.window)
        if len(self._means) > self.window:
            self._best = max(self._means[0], self._means[0] if self._best is None else self._best)

    @property
    def first(self) -> float | None:
        """The mean of the first window; None until the last one has nothing in common with it."""
        whole = len(self._first) == self.window and len(self._means) > self.window
        return sum(self._first) / self.window if whole else None

    @property
    def last(self) -> float | None:
        """The mean of the last window."""
        return self._means[-1] if self._means else None

    @property
    def best(self) -> float | None:
        """The largest mean of a window that ended before the last one began."""
        return self._best

    @property
    def newest(self) -> float | None:
        """The last number alone."""
        return self._last[-1] if self._last else None


class Curves:
    """Those of some names."""

    def __init__(self, names: Iterable[str], window: int) -> None:
        self.names = tuple(names)
        self._of: dict[str, Curve] = defaultdict(lambda: Curve(window))

    def add(self, numbers: Mapping[str, float | None]) -> None:
        """What a step says of them; what is no number moves nothing. `a/` is all that begin so."""
        for name in self.names:
            found = [
                value
                for key, value in numbers.items()
                if (key == name or (name.endswith("/") and key.startswith(name))) and value is not None
            ]
            known = [value for value in found if isfinite(value)]
            if known:
                self._of[name].add(sum(known) / len(known))

    def __getitem__(self, name: str) -> Curve:
        return self._of[name]
