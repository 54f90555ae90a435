"""How far a conversion is, on a terminal: bytes, their rate, the time left. Elsewhere nothing is printed.

Example:
    >>> line(done=3 * 2**30, total=12 * 2**30, seconds=6.0)
    '3.0 of 12.0 GiB (25%), 512 MiB/s, 18 s left'
"""

import sys
import time
from typing import TextIO


def line(done: int, total: int, seconds: float) -> str:
    """What the terminal shows."""
    rate = done / max(seconds, 1e-9)
    left = (total - done) / max(rate, 1)
    share = 100 * done // max(total, 1)
    return f"{done / 2**30:.1f} of {total / 2**30:.1f} GiB ({share}%), {rate / 2**20:.0f} MiB/s, {left:.0f} s left"


class Progress:
    """Counts bytes; a line of the terminal is written over a few times per second."""

    def __init__(self, what: str, total: int, stream: TextIO | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self.stream = sys.stderr if stream is None else stream
        self.begun = self._shown = time.monotonic()
        self.skipped = 0

    def add(self, size: int, kept: bool = False) -> None:
        """Some more; bytes that an earlier run left do not count for the rate."""
        self.done += size
        self.skipped += size if kept else 0
        now = time.monotonic()
        if self.stream.isatty() and now - self._shown > 0.2:
            self._shown = now
            told = line(self.done - self.skipped, self.total - self.skipped, now - self.begun)
            self.stream.write(f"\r\033[K{self.what}  {told}")
            self.stream.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_error: object) -> None:
        """Takes the line away."""
        if self.stream.isatty():
            self.stream.write("\r\033[K")
            self.stream.flush()
