"""Which runs a sweep is made of, where each lies, and under which name.

    SWEEP/sweep.json     every point that was ever asked for: its overrides by its name; the metric and the goal
    SWEEP/1f0c9a2e/      a run, whole

Invariants
    1. A point has the same name whenever it is asked for, in whatever order its overrides stand. So a sweep that is
       asked for again goes on, and one with more values has what it had.
    2. Every point is checked before anything is written, and every bad one is told with its reasons.

Example: plan = planned(["experiment=tiny-hpt", "algorithm.switch_gate=0,1"], Path("runs/gates"))
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpt_megatron.config.load import Loaded, load_points
from hpt_megatron.config.problem import counted, errors
from hpt_megatron.config.run import RunConfig
from hpt_megatron.config.sweep import METRIC
from hpt_megatron.errors import UserError

FILE = "sweep.json"
NAME_LENGTH = 8
PLACE = "trainer.run_dir"


@dataclass(frozen=True)
class SweepPoint:
    """One run of a sweep."""

    name: str
    given: tuple[str, ...]
    folder: Path
    run: RunConfig


@dataclass(frozen=True)
class Plan:
    """A sweep: where it lies and what is asked for now."""

    folder: Path
    points: tuple[SweepPoint, ...]
    metric: str = METRIC
    goal: str = "max"

    def write(self) -> None:
        """Adds the points to those that the sweep has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        before = recorded(self.folder) if (self.folder / FILE).is_file() else Asked({}, self.metric, self.goal)
        points = {**before.points, **{point.name: list(point.given) for point in self.points}}
        told = {"metric": self.metric, "goal": self.goal, "points": points}
        beside = self.folder / f"{FILE}.new"
        beside.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        beside.replace(self.folder / FILE)


@dataclass(frozen=True)
class Asked:
    """What a sweep was asked for, as it was written down."""

    points: Mapping[str, Sequence[str]]
    metric: str
    goal: str


def name_of(given: Sequence[str]) -> str:
    """Of a point.

    >>> name_of(["a=1", "b=2"]) == name_of(["b=2", "trainer.run_dir=x", "a=1"])
    True
    """
    kept = sorted(text for text in given if text.partition("=")[0] != PLACE)
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:NAME_LENGTH]


def planned(
    given: Sequence[str], folder: Path, config_folder: Path | None = None, metric: str = METRIC, goal: str = "max"
) -> Plan:
    """The points of a command line; nothing, where one of them is wrong."""
    loaded = load_points(list(given), multirun=True, config_folder=config_folder)
    refuse(loaded)
    points = tuple(point_of(each, folder) for each in loaded)
    once = {point.name: point for point in points}
    return Plan(folder, tuple(once.values()), metric, goal)


def point_of(loaded: Loaded, folder: Path) -> SweepPoint:
    """A checked point in its place."""
    name = name_of(loaded.given)
    trainer = replace(loaded.run.trainer, run_dir=str(folder / name))
    given = tuple(text for text in loaded.given if text.partition("=")[0] != PLACE)
    return SweepPoint(name, given, folder / name, replace(loaded.run, trainer=trainer))


def refuse(loaded: Sequence[Loaded]) -> None:
    """Bad points, all of them, each with everything that is wrong."""
    bad = [(number, each) for number, each in enumerate(loaded, 1) if not each.ok]
    if not bad:
        return
    told = [f"nothing was started: {counted(len(bad), 'point')} of {len(loaded)} cannot run"]
    for number, each in bad:
        told.append(f"point {number}: {' '.join(each.given)}")
        told += [f"  {problem}" for problem in errors(each.problems)]
    raise UserError("\n  ".join(told))


def recorded(folder: Path) -> Asked:
    """What a folder says of its sweep."""
    path = folder / FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        points = {str(name): [str(text) for text in given] for name, given in told["points"].items()}
        return Asked(points, str(told["metric"]), str(told["goal"]))
    except FileNotFoundError as error:
        raise UserError("is no sweep", where=str(folder), mend="the --out of `hpt sweep run`") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("cannot be read", where=str(path), mend="ask for the sweep again, elsewhere") from error
