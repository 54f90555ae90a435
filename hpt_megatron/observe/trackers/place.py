"""What a tracker is told when it is opened.

Invariant: `first` is the step that is written next; what lies from it on belongs to an attempt that was given up.

Example: Place(Path("runs/a"), first=1, project="hpt_megatron", name="a", settings={"trainer": {"lr": 1e-6}})
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Place:
    """The run's folder, the first step, the names under which it is found, and its configuration."""

    folder: Path
    first: int
    project: str
    name: str
    settings: Mapping[str, Any]


def remembered(file: Path, made: str) -> str:
    """An id that an earlier attempt of the run wrote down; `made` where there is none yet."""
    if file.is_file() and (found := file.read_text(encoding="utf-8").strip()):
        return found
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(made + "\n", encoding="utf-8")
    return made
