"""The folder of a run as it stands: configuration, steps, decisions, validations, and which rollouts were written.

Invariants
    1. A run in progress is read as far as it is whole: a line that is torn, or that is no line of ours, is counted and
       left out.
    2. Every step is there once, the later line of two, in order; numbers that are no finite numbers are not there.
    3. Nothing in the folder is written or locked.

Example: read(Path("runs/tiny-hpt")).steps[-1]["reward/mean"]
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.errors import UserError
from hpt_megatron.observe.generations import ROLLOUTS
from hpt_megatron.observe.journal import DECISIONS, METRICS, VALIDATION
from hpt_megatron.observe.record import NAME

ROLLOUT_FILE = re.compile(r"(train|validate)_(\d{1,9})\.jsonl\Z")
STEP, OF, VAL = "step", "of", "val/"
Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Visit:
    """One prompt in one step: what its rollouts came to, and what was decided."""

    step: int
    uid: str
    n: int
    k: int
    arm: str
    on: float
    removed: int
    demonstration: bool


@dataclass(frozen=True)
class Recorded:
    """See the module; `torn` counts the lines that were left out."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    steps: Sequence[Numbers]
    visits: Sequence[Visit]
    validations: Sequence[Numbers]
    torn: int
    written_s: float  # when the last step was written, seconds since the epoch
    files: Mapping[tuple[str, int], Path]  # of rollouts, by purpose and step

    @property
    def last(self) -> int:
        """The step that the run stands at."""
        return int(self.steps[-1][STEP])

    @property
    def total(self) -> int | None:
        """The step that it ends with, where that is known."""
        if OF in self.steps[-1]:
            return int(self.steps[-1][OF])
        trainer = self.config.get("trainer") or {}
        told = trainer.get("total_training_steps") if isinstance(trainer, Mapping) else None
        return told if isinstance(told, int) and trainer.get("total_epochs") is None else None

    @property
    def ended(self) -> bool:
        """Whether it made its last step."""
        return self.total is not None and self.last >= self.total

    def value(self, key: str) -> Any:
        """Of the configuration, by its dotted name; None where it is not there."""
        found: Any = self.config
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found


def read(folder: Path, name: str = "") -> Recorded:
    """A run; whatever is no run is refused in a line."""
    where, mend = str(folder), "give the folder that `trainer.run_dir` named"
    if not folder.exists():
        raise UserError("no such run", where=where, mend=mend)
    if not folder.is_dir():
        raise UserError("is a file, not the folder of a run", where=where, mend=mend)
    if not (folder / NAME).is_file() and not (folder / METRICS).is_file():
        raise UserError(f"is no run: it holds neither {NAME} nor {METRICS}", where=where, mend=mend)
    steps, torn = _by_step(folder / METRICS)
    if not steps:
        raise UserError("no step is written yet", where=where, mend="wait for the first one")
    visits, torn_visits = _visits(folder / DECISIONS)
    tested, torn_validations = _by_step(folder / VALIDATION)
    validations = [
        {name: each for name, each in told.items() if name == STEP or name.startswith(VAL)} for told in tested
    ]
    return Recorded(
        name=name or folder.resolve().name,
        folder=folder,
        config=_config(folder / NAME),
        steps=steps,
        visits=visits,
        validations=validations,
        torn=torn + torn_visits + torn_validations,
        written_s=(folder / METRICS).stat().st_mtime,
        files=_rollouts(folder / ROLLOUTS),
    )


def names_of(folders: Sequence[Path]) -> list[str]:
    """What each of some runs is called: the end of its path that no other one has.

    >>> names_of([Path("/a/x/run"), Path("/a/y/run"), Path("/a/z")])
    ['x/run', 'y/run', 'z']
    """
    parts = [folder.resolve().parts for folder in folders]

    def end(own: tuple[str, ...], length: int) -> str:
        return "/".join(own[-length:])

    names = []
    for own in parts:
        lengths = range(1, len(own) + 1)
        alone = [n for n in lengths if sum(end(other, n) == end(own, n) for other in parts) == 1]
        names.append(end(own, alone[0] if alone else len(own)))
    return names


def lines_of(path: Path) -> Iterator[dict[str, Any] | None]:
    """The objects of a file of JSON lines; None for what is none."""
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    told = json.loads(line)
                except (ValueError, RecursionError):
                    told = None
                yield told if isinstance(told, dict) else None
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _by_step(path: Path) -> tuple[list[Numbers], int]:
    found: dict[float, Numbers] = {}
    torn = 0
    for told in lines_of(path):
        numbers = (
            {} if told is None else {name: each for name, value in told.items() if (each := finite(value)) is not None}
        )
        if STEP in numbers:
            found[numbers[STEP]] = numbers
        else:
            torn += 1
    return [found[step] for step in sorted(found)], torn


def _visits(path: Path) -> tuple[list[Visit], int]:
    found, torn = [], 0
    for told in lines_of(path):
        try:
            found.append(_visit(told or {}))
        except (KeyError, TypeError, ValueError, OverflowError):
            torn += 1
    return sorted(found, key=lambda visit: visit.step), torn


def _visit(told: Mapping[str, Any]) -> Visit:
    return Visit(
        step=int(told["step"]),
        uid=str(told["uid"]),
        n=int(told["n"]),
        k=int(told["successes"]),
        arm=str(told["decision"]),
        on=float(told["on"]),
        removed=int(told["removed"]),
        demonstration=bool(told["demonstration"]),
    )


def _config(path: Path) -> Mapping[str, Any]:
    """The configuration; a run without one is shown all the same."""
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError("its record cannot be read", where=str(path), mend="restore it, or remove it") from error
    return told if isinstance(told, dict) else {}


def _rollouts(folder: Path) -> dict[tuple[str, int], Path]:
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = ROLLOUT_FILE.fullmatch(path.name)
        if match:
            found[match[1], int(match[2])] = path
    return found


def finite(value: Any) -> float | None:
    """A number as a float; None for everything else.

    >>> finite(3), finite(True), finite("3"), finite(float("nan"))
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
