"""What a run says of pairs that it was not trained on: RUN/preferences/step_N.json, the newest that can be read.

Invariants
    1. A file that is torn, or holds something that is none of ours, is counted and left out; the one before is shown.
    2. Every number here is finite. Shares lie in 0 to 1, edges rise, counts are not negative: a picture can be drawn.
    3. Nothing is read but that folder, and of no file more than `BYTES_MOST`.

Example: preferences_of(Path("runs/tiny-reward-model")).newest.numbers["accuracy"]
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from hpt_megatron.protocol.bin import Bin
from hpt_megatron.report.folder import Numbers, finite

FOLDER = "preferences"
FILE = re.compile(r"step_(\d{1,9})\.json\Z")
BYTES_MOST = 1 << 22
TRIES = 50  # files that are opened, the newest first
NUMBERS = ("accuracy", "margin", "brier", "ece", "auc", "separation")
BINS_MOST, COLUMNS_MOST = 100, 400
LARGEST, NARROWEST = 1e15, 1e-100  # a score or a count; all edges together


@dataclass(frozen=True)
class Scores:
    """How many answers of each side lie between two neighbouring edges."""

    edges: Sequence[float]
    chosen: Sequence[int]
    rejected: Sequence[int]


@dataclass(frozen=True)
class Judged:
    """One validation; of `numbers` those are there that are finite."""

    step: int
    loss: str
    pairs: int
    numbers: Numbers
    bins: Sequence[Bin]
    scores: Scores
    domains: Mapping[str, Numbers]


@dataclass(frozen=True)
class Preferences:
    """The newest validation, how many there are, and how many newer files could not be read."""

    newest: Judged | None
    files: int
    odd: int


def preferences_of(run: Path) -> Preferences:
    """Of the folder of a run."""
    steps = _steps(run / FOLDER)
    for odd, step in enumerate(steps[:TRIES]):
        try:
            return Preferences(_judged(_told(run / FOLDER / f"step_{step}.json"), step), len(steps), odd)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return Preferences(None, len(steps), len(steps))


def _steps(folder: Path) -> list[int]:
    """Of the files that are called like ours, the newest first."""
    try:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    except OSError:
        return []
    found = {int(match[1]) for name in names if (match := FILE.fullmatch(name))}
    return sorted((step for step in found if f"step_{step}.json" in names), reverse=True)


def _told(path: Path) -> Any:
    with path.open("rb") as file:
        text = file.read(BYTES_MOST + 1)
    if len(text) > BYTES_MOST:
        raise ValueError(f"{path.name} is larger than any of ours")
    return json.loads(text)


def _judged(told: Any, step: int) -> Judged:
    if told["step"] != step:
        raise ValueError("it is about another step than its name says")
    every, domains = told["all"], told["domains"]
    return Judged(
        step=step,
        loss=str(told["loss"]),
        pairs=_count(every["pairs"]),
        numbers=_numbers(every),
        bins=_bins(every["bins"]),
        scores=_scores(told["histogram"]),
        domains={str(name): {**_numbers(one), "pairs": float(_count(one["pairs"]))} for name, one in domains.items()},
    )


def _numbers(told: Mapping[str, Any]) -> Numbers:
    return {name: number for name in NUMBERS if (number := finite(told.get(name))) is not None}


def _bins(told: Sequence[Mapping[str, Any]]) -> list[Bin]:
    if not isinstance(told, list) or len(told) > BINS_MOST:
        raise ValueError("these are no bins")
    found = []
    for one in told:
        low, high, confidence, right = (_share(one[name]) for name in ("low", "high", "confidence", "right"))
        if not low < high:
            raise ValueError("a bin has no width")
        found.append(Bin(low, high, _count(one["pairs"]), confidence, right))
    return found


def _scores(told: Mapping[str, Any]) -> Scores:
    edges = [_number(value) for value in told["edges"]]
    chosen, rejected = ([_count(value) for value in told[name]] for name in ("chosen", "rejected"))
    columns = len(chosen)
    if not 0 < columns <= COLUMNS_MOST or len(rejected) != columns or len(edges) != columns + 1:
        raise ValueError("columns and edges do not fit")
    if not all(low < high for low, high in pairwise(edges)) or edges[-1] - edges[0] < NARROWEST:
        raise ValueError("edges do not rise")
    return Scores(edges, chosen, rejected)


def _number(value: Any) -> float:
    found = finite(value)
    if found is None or abs(found) > LARGEST:
        raise ValueError(f"{value!r} is no number")
    return found


def _share(value: Any) -> float:
    found = _number(value)
    if not -1e-9 <= found <= 1 + 1e-9:
        raise ValueError(f"{found} is no share")
    return min(max(found, 0.0), 1.0)


def _count(value: Any) -> int:
    found = _number(value)
    if found < 0 or found != int(found):
        raise ValueError(f"{found} is no count")
    return int(found)
