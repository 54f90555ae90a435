"""Rates of the host that a plan is made on, measured in a fraction of a second when they are asked for."""

import time

COPIED = 1 << 26
SIDE = 1024


def memory_rate() -> float:
    """GB/s of a copy within this host's memory, the best of a few."""
    import numpy as np

    source, target = np.ones(COPIED, np.uint8), np.empty(COPIED, np.uint8)
    taken = []
    for _ in range(4):  # the first also brings the pages in
        started = time.perf_counter()
        np.copyto(target, source)
        taken.append(time.perf_counter() - started)
    return COPIED / min(taken) / 1e9


def product_rate() -> float:
    """Operations per second of a float32 matrix product in this process, the best of a few."""
    import numpy as np

    left = np.ones((SIDE, SIDE), np.float32)
    taken = []
    for _ in range(4):
        started = time.perf_counter()
        left @ left
        taken.append(time.perf_counter() - started)
    return 2 * SIDE**3 / min(taken)
