"""Checkpoints of a run: whole or not there, checked before they are used, and not more than are wanted.

    RUN/checkpoints/step_50/trainer/       what the trainer's processes wrote; critic/ where there is one
    RUN/checkpoints/step_50/manifest.json  the loop's state; every file with its size and SHA-256

Everything is written beside and renamed once the manifest is on disk. So a folder that has its name is whole, unless
the disk lost something; `newest` checks that, and goes back to the one before with a warning.

Invariants
    1. The manifest is the last file of a checkpoint, and the rename comes after it.
    2. Only the attempt that holds the run makes checkpoints (`fence.py`).
    3. What is not this module's own is never removed: only `step_N` folders with a manifest, and its own partial ones.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpt_megatron.driver.loop.fence import UNFENCED, Fence
from hpt_megatron.errors import UserError

logger = logging.getLogger(__name__)
MANIFEST, PARTIAL = "manifest.json", ".partial"
CHUNK = 1 << 20


class Checkpoints:
    """Those of one run."""

    def __init__(self, folder: Path, keep_last: int, fence: Fence = UNFENCED) -> None:
        self.folder, self.keep_last, self.fence = folder, keep_last, fence

    def begin(self, step: int) -> Path:
        """The folder to fill, with the attempt's name: ranks of an earlier one that live on write elsewhere."""
        self.fence.check()
        for left in self.folder.glob(f"step_*{PARTIAL}"):
            shutil.rmtree(left, ignore_errors=True)
        partial = self.folder / f"step_{step}.{self.fence.token}{PARTIAL}"
        partial.mkdir(parents=True)
        return partial

    def seal(self, partial: Path, step: int, state: Mapping[str, Any], worth: float | None = None) -> Path:
        """What was filled is a checkpoint; answers where it is in the end. The one worth most is always kept."""
        final = self.folder / f"step_{step}"
        told = {"step": step, "worth": worth, "state": state, "files": files_of(partial)}
        _write_synced(partial / MANIFEST, json.dumps(told, indent=1))
        self.fence.check()
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync(self.folder)
        self._prune()
        return final

    def steps(self) -> list[int]:
        """Of the checkpoints that are there, newest first."""
        names = [path.name for path in self.folder.glob("step_*") if (path / MANIFEST).is_file()]
        return sorted((int(name[5:]) for name in names if name[5:].isdecimal()), reverse=True)

    def newest(self) -> Path | None:
        """The newest one that is sound."""
        for step in self.steps():
            path = self.folder / f"step_{step}"
            problem = problem_of(path)
            if not problem:
                return path
            logger.warning("checkpoint %s is left out: %s", path, problem)
        return None

    def best(self) -> int | None:
        """The step of the checkpoint that is worth most, the newest of equals; None where none says its worth."""
        known = [(worth, step) for step in self.steps() if (worth := self._worth(step)) is not None]
        return max(known)[1] if known else None

    def _worth(self, step: int) -> float | None:
        try:
            told = json.loads((self.folder / f"step_{step}" / MANIFEST).read_text(encoding="utf-8"))["worth"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return told if isinstance(told, float) and told == told else None

    def _prune(self) -> None:
        best = self.best()
        for step in self.steps()[self.keep_last :]:
            if step != best:
                shutil.rmtree(self.folder / f"step_{step}", ignore_errors=True)


def read(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint that must be sound."""
    problem = problem_of(path)
    if problem:
        raise UserError(problem, where=str(path), mend="name another checkpoint, or trainer.resume=auto")
    told: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return told


def problem_of(path: Path) -> str:
    """What is wrong with a checkpoint, in words; nothing where it is sound."""
    try:
        told = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = dict(told["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {MANIFEST} cannot be read ({type(error).__name__})"
    found = {name for name in _names(path) if name != MANIFEST}
    if missing := sorted(files.keys() - found):
        return f"{missing[0]} is missing"
    for name, (size, digest) in sorted(files.items()):
        if (path / name).stat().st_size != size or _digest(path / name) != digest:
            return f"{name} is not what was written"
    return ""


def files_of(path: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder with its size and digest."""
    return {name: ((path / name).stat().st_size, _digest(path / name)) for name in _names(path)}


def _names(path: Path) -> list[str]:
    return sorted(each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file())


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
