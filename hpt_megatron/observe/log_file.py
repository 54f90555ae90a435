"""The log of a run as text: everything that is told to whoever watches, and every warning of the package.

    RUN/train.log    2026-01-02 03:04:05 WARNING length: responses have 90 tokens, at the start they had 40

Invariants
    1. A line is on disk once it is told, so the file can be followed; it is one line whatever it says.
    2. Warnings are still shown where they were shown without the file. Attempts at one run stand one after the other.

Example:
    with log_file(Path("runs/a/train.log")): TOLD.info("step 1/9 ...")
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpt_megatron.config.problem import one_line

TOLD = logging.getLogger("hpt_megatron.told")
"""What is told; the display shows it, so it goes nowhere else than into the file."""
TOLD.propagate = False
TOLD.addHandler(logging.NullHandler())
PACKAGE = logging.getLogger("hpt_megatron")


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {record.levelname} {one_line(record.getMessage())}"


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Open inside; what ends the inside by raising is the last line."""
    file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(_Line())
    shown = logging.lastResort  # shows warnings where nobody has said otherwise, and steps back for any handler
    besides = [shown] if shown is not None and not PACKAGE.hasHandlers() else []
    level = TOLD.level
    TOLD.setLevel(logging.INFO)
    for handler in (file, *besides):
        PACKAGE.addHandler(handler)
    TOLD.addHandler(file)
    try:
        yield
    except BaseException as error:
        TOLD.error("%s: %s", type(error).__name__, error)
        raise
    finally:
        TOLD.setLevel(level)
        TOLD.removeHandler(file)
        for handler in (file, *besides):
            PACKAGE.removeHandler(handler)
        file.close()
