"""Named parts that can be chosen in a configuration, ours and those of other packages.

Another package adds one through an entry point of the registry's group:

    entry_points={"hpt_megatron.credit": ["mine = my_package.credit:Mine"]}

Invariants
    1. A name is given once; a second registration is refused.
    2. An unknown name is refused by listing the known ones.
    3. Nothing of another package is imported before its name is asked for.

Example:
    >>> shapes = Registry[int]("shape", "hpt_megatron.example")
    >>> shapes.add("square")(4)
    4
    >>> shapes.get("square")
    4
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from hpt_megatron.errors import HptError, UserError

T = TypeVar("T")


def plugged(group: str) -> list[str]:
    """The names that other packages add to a group; nothing of theirs is imported."""
    return sorted({point.name for point in entry_points(group=group)})


class Registry(Generic[T]):
    """Names to parts of one kind."""

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._own: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """A decorator that gives a part its name."""

        def named(part: T) -> T:
            if name in self._own:
                raise HptError(f"{self.kind} {name} is registered twice")
            self._own[name] = part
            return part

        return named

    def _others(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            if point.name in self._own or found.get(point.name, point) != point:
                mend = f"rename it in the package that brings {point.value}"
                raise UserError(f"{self.kind} {point.name} is given twice", mend=mend)
            found[point.name] = point
        return found

    def names(self) -> list[str]:
        """Every known name: ours in the order they were added, then others'."""
        return [*self._own, *sorted(self._others())]

    def get(self, name: str) -> T:
        """The part of a name."""
        if name in self._own:
            return self._own[name]
        others = self._others()
        if name not in others:
            raise UserError(f"no such {self.kind}: {name}", mend=f"one of {', '.join(self.names())}")
        part: T = others[name].load()
        return part
