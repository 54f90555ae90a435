"""What `hpt sweep` runs: points of a grid, or of a search.

    configs/sweep/NAME.yaml
        base      overrides of every point
        grid      overrides that stand for several values each, in Hydra's grammar: every combination is a point
        search    or, by key: {low, high, log} of numbers, or a list of choices; points are asked for one by one
        trials    how many of them
        metric    a number of the last validation
        goal      max or min

Example: read_sweep("tiny-grid").overrides
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpt_megatron.config.files import SWEEPS, read_named
from hpt_megatron.config.problem import one_line
from hpt_megatron.errors import UserError

ALWAYS = ("base", "metric", "goal")
METRIC = "val/mean_score"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`."""

    low: float
    high: float
    log: bool
    whole: bool


Axis = Range | tuple[Any, ...]


@dataclass(frozen=True)
class SweepFile:
    """See the module."""

    name: str
    base: Sequence[str]
    grid: Sequence[str]
    search: Mapping[str, Axis]
    trials: int
    metric: str
    goal: str

    @property
    def overrides(self) -> list[str]:
        """Of all points together."""
        return [*self.base, *self.grid]


def read_sweep(asked: str) -> SweepFile:
    """A shipped one by its name, or a file."""
    path, told = read_named(asked, SWEEPS)
    problems = list(_problems(told))
    if problems:
        raise UserError("; ".join(problems), where=str(path), mend="see `configs/sweep/tiny-grid.yaml`")
    search = {key: _axis(value) for key, value in told.get("search", {}).items()}
    return SweepFile(
        name=path.stem,
        base=tuple(told["base"]),
        grid=tuple(told.get("grid", ())),
        search={key: axis for key, axis in search.items() if axis is not None},
        trials=int(told.get("trials", 0)),
        metric=told["metric"],
        goal=told["goal"],
    )


def _problems(told: Any) -> Iterator[str]:
    known = {*ALWAYS, "grid", "search", "trials"}
    if not isinstance(told, dict) or not {*ALWAYS} <= set(told) or set(told) - known:
        yield f"must have the keys {', '.join(ALWAYS)}, and grid, or search and trials, and no others"
        return
    if ("grid" in told) == ("search" in told) or ("search" in told) != ("trials" in told):
        yield "must have grid, or search and trials"
        return
    if told["goal"] not in ("max", "min"):
        yield f"goal must be max or min: {one_line(str(told['goal']))}"
    if not isinstance(told["metric"], str):
        yield "metric must be the name of a number"
    for name in ("base", "grid"):
        value = told.get(name, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            yield f"{name} must be a list of texts"
    if "search" in told:
        if type(told["trials"]) is not int or told["trials"] < 1:
            yield "trials must be 1 or more"
        if not isinstance(told["search"], dict) or not told["search"]:
            yield "search must name at least one key"
            return
        for key, value in told["search"].items():
            if _axis(value) is None:
                yield f"search.{key} must be {{low, high}}, with log if you like, or a list of choices"


def _axis(value: Any) -> Axis | None:
    if isinstance(value, list):
        return tuple(value) if value else None
    if not isinstance(value, dict) or not {"low", "high"} <= set(value) or set(value) - {"low", "high", "log"}:
        return None
    low, high, log = value["low"], value["high"], value.get("log", False)
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in (low, high)):
        return None
    if type(log) is not bool or low >= high or (log and low <= 0):
        return None
    return Range(float(low), float(high), log, isinstance(low, int) and isinstance(high, int))
