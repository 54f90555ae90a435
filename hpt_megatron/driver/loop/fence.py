"""One attempt at a run at a time, also where a scheduler takes an earlier one for dead and it is not.

    RUN/held             locked by the driver that is at work here
    RUN/attempt.json     the attempt that the run belongs to: its token, host and process

A driver without a job around it takes a run that nobody holds, and refuses one that somebody does. The next attempt of
a job (`HPT_ATTEMPT_TOKEN`) takes the run first, and then waits, at most `HPT_PATIENCE_S`, until the earlier one has
seen that and let go. What an attempt writes where others look, a step's line or a checkpoint's name, it writes after
`check`.

Invariants
    1. An attempt whose token no longer stands in the file writes no line and names no checkpoint.
    2. The lock ends with the process that holds it, however that ends. Where a file system has no locks, that is said,
       and the token alone decides.

Example: with hold(Path("runs/a"), sys.stdout) as fence: fence.check()
"""

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from hpt_megatron.errors import HptError, UserError

HELD, MARK = "held", "attempt.json"
TOKEN, PATIENCE = "HPT_ATTEMPT_TOKEN", "HPT_PATIENCE_S"


class FencedError(HptError):
    """Another attempt has taken the run."""


@dataclass(frozen=True)
class Fence:
    """An attempt's hold of a run; without a folder, nobody's and never lost."""

    token: str
    folder: Path | None = None

    def check(self) -> None:
        """Whether the run still belongs to this attempt."""
        if self.folder is None:
            return
        now = _mark(self.folder)
        if now.get("token") != self.token:
            who = f"attempt {now.get('token')} on {now.get('host')}, process {now.get('process')}"
            raise FencedError(f"the run was taken by {who}; this one writes nothing more", where=str(self.folder))


UNFENCED = Fence("alone")


@contextmanager
def hold(folder: Path, shown: TextIO) -> Iterator[Fence]:
    """The run is this process's inside."""
    folder.mkdir(parents=True, exist_ok=True)
    token, patience = os.environ.get(TOKEN), float(os.environ.get(PATIENCE, "0"))
    with (folder / HELD).open("a", encoding="ascii") as lock:
        if token is not None:
            _take(folder, token)
        _wait(lock, folder, patience if token is not None else 0.0, shown)
        fence = Fence(token or secrets.token_hex(8), folder)
        if token is None:
            _take(folder, fence.token)
        fence.check()  # a still newer attempt may have come while this one waited
        yield fence


def _wait(lock: TextIO, folder: Path, patience: float, shown: TextIO) -> None:
    until, said = time.monotonic() + patience, False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= until:
                what, where = f"is held by {_who(folder)}", str(folder)
                if patience:  # nobody asked for anything wrong, and the next attempt may have better luck
                    raise HptError("is still held by an earlier attempt", where=where) from error
                raise UserError(what, where=where, mend="end that process, or another trainer.run_dir") from error
            if not said:
                shown.write("an earlier attempt still holds the run; waiting for it to end\n")
                shown.flush()
                said = True
            time.sleep(0.2)
        except OSError as error:
            shown.write(f"{folder} has no locks ({error.strerror}); the attempt's token alone guards it\n")
            shown.flush()
            return


def _who(folder: Path) -> str:
    mark = _mark(folder)
    return f"process {mark.get('process')} on {mark.get('host')}"


def _take(folder: Path, token: str) -> None:
    """Whole or not at all, whoever reads."""
    told = {"token": token, "host": socket.gethostname(), "process": os.getpid()}
    beside = folder / f"{MARK}.{token}"
    with beside.open("w", encoding="utf-8") as file:
        json.dump(told, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / MARK)


def _mark(folder: Path) -> dict[str, Any]:
    try:
        told = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
