"""Which rank encodes which image: the costliest first, each to the rank with the least so far.

No rank gets more than an even share and one image on top, and for images of like sizes it stays far below that. Among
ranks that are equal, the one with fewer images and then the lower number is chosen, so all ranks, each alone, come to
the same answer.

Example:
    >>> share([5.0, 4.0, 3.0, 3.0, 3.0], 2)
    [0, 1, 1, 0, 1]
    >>> round(uneven([5.0, 4.0, 3.0, 3.0, 3.0], [0, 1, 1, 0, 1], 2), 3)
    0.111
"""

import heapq
from collections.abc import Sequence

from hpt_megatron.errors import UserError


def share(costs: Sequence[float], ranks: int) -> list[int]:
    """For each image the rank that encodes it."""
    if ranks < 1:
        raise UserError(f"{ranks} ranks encode no image", mend="1 or more")
    chosen = [0] * len(costs)
    loads = [(0.0, 0, rank) for rank in range(ranks)]
    for image in sorted(range(len(costs)), key=lambda image: (-costs[image], image)):
        load, held, rank = loads[0]
        chosen[image] = rank
        heapq.heapreplace(loads, (load + costs[image], held + 1, rank))
    return chosen


def uneven(costs: Sequence[float], chosen: Sequence[int], ranks: int) -> float:
    """How much longer the busiest rank takes than an even share would; 0 is ideal, ranks - 1 is one rank alone."""
    loads = [0.0] * ranks
    for cost, rank in zip(costs, chosen, strict=True):
        loads[rank] += cost
    total = sum(loads)
    return max(loads) * ranks / total - 1 if total > 0 else 0.0
