"""Ports of this host: one that nobody listens on, and a block of them that a job has for itself.

    HPT_PORTS=20400-20599      what a job of a cluster sets for all its processes on a host: theirs come from there

Invariants
    1. All are below those that the system gives to outgoing connections: one of them could take it before it is used.
    2. A block belongs to one job of a user while the file that locks it is open, and every port of it was free when it
       was taken; so several jobs can share a host.

Example:
    >>> 20_000 <= free_port() < 32_000
    True
"""

import contextlib
import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hpt_megatron.errors import HptError

RANGE = (20_000, 31_999)
BLOCK = 200
OURS = "HPT_PORTS"


def free_port(host: str = "127.0.0.1") -> int:
    """Of the job's own block, where it has one."""
    first, last = _ours()
    while True:
        port = random.randint(first, last)
        if is_free(host, port):
            return port


def listener(host: str = "127.0.0.1") -> socket.socket:
    """Listens on such a port at once, so that nobody can take it before it is used; `getsockname()` tells which."""
    first, last = _ours()
    while True:
        with contextlib.suppress(OSError):
            return socket.create_server((host, random.randint(first, last)))


def _ours() -> tuple[int, int]:
    first, _, last = os.environ.get(OURS, "").partition("-")
    return (int(first), int(last)) if first and last else RANGE


def is_free(host: str, port: int) -> bool:
    """Whether nobody listens there."""
    with contextlib.suppress(OSError), socket.create_server((host, port)):
        return True
    return False


@contextlib.contextmanager
def block(host: str, start_with: int = 0) -> Iterator[range]:
    """So many ports in a row, held until this ends; the search begins at a place that `start_with` decides."""
    places = range(RANGE[0], RANGE[1] + 2 - BLOCK, BLOCK)
    folder = Path(tempfile.gettempdir()) / f"hpt-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for turn in range(len(places)):
        first = places[(start_with + turn) % len(places)]
        with (folder / str(first)).open("w", encoding="ascii") as lock, contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ports = range(first, first + BLOCK)
            if all(is_free(host, port) for port in ports):
                yield ports
                return
    what = f"no {BLOCK} ports in a row are free from {RANGE[0]} to {RANGE[1]}"
    raise HptError(what, where=host, mend="end other programs there, or take another node")
