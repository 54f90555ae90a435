"""A port of this host that nobody listens on.

Example:
    >>> 20_000 <= free_port() < 32_000
    True
"""

import contextlib
import random
import socket

RANGE = (20_000, 31_999)


def free_port(host: str = "127.0.0.1") -> int:
    """Below those that the system gives to outgoing connections: one of them could take it before it is used."""
    while True:
        with contextlib.suppress(OSError), socket.create_server((host, random.randint(*RANGE))) as server:
            return int(server.getsockname()[1])
