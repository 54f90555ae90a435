"""How long something takes, for the measurements beside this file."""

import time
from collections.abc import Callable


def times(act: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of several runs; take the least, or the median."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return taken
