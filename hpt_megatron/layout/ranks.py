"""Packs onto data-parallel ranks, as many on each, and rows exchanged until the ranks cost about the same.

Ranks wait for one another at the end of a step, so the costliest sets the pace. Dealing whole packs leaves a difference
of a part of a pack; exchanging single rows between the costliest and the cheapest rank takes most of it away.

Invariants
    1. An exchange lowers the larger of two ranks' costs and never lowers the smaller, so the ranks only come closer.
    2. It fills no pack beyond its limits, makes none much longer than the longest was, and empties none.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hpt_megatron.layout.bins import Bin

ENOUGH = 0.002  # of the costliest rank: closer is not worth an exchange
SLACK = 1.03  # of the mean length of a pack: as long as an exchange may always make one
NEAREST = 3  # candidates on either side of the row that would fit best
NOTHING = -1  # in place of a row: the other is moved, not exchanged


@dataclass(frozen=True)
class _Item:
    worth: float
    row: int
    bin: Bin


def deal(bins: Sequence[Bin], dp: int) -> list[list[Bin]]:
    """Costliest first, one to every rank before any rank gets another; the cheapest rank chooses first."""
    ranks: list[list[Bin]] = [[] for _ in range(dp)]
    costs = [0.0] * dp
    order = sorted(range(len(bins)), key=lambda number: (-bins[number].cost, -bins[number].slots, number))
    for start in range(0, len(bins), dp):
        turn = sorted(range(dp), key=lambda rank: (costs[rank], rank))
        for rank, number in zip(turn, order[start : start + dp], strict=True):
            ranks[rank].append(bins[number])
            costs[rank] += bins[number].cost
    return ranks


def level(ranks: Sequence[Sequence[Bin]]) -> None:
    """Exchanges rows between ranks, in place, a bounded number of times."""
    dp = len(ranks)
    bins = [one for rank in ranks for one in rank]
    mean = sum(one.slots for one in bins) / len(bins)
    room = min(bins[0].load.capacity, max(int(mean * SLACK), *(one.slots for one in bins), 0))
    costs = [sum(one.cost for one in rank) for rank in ranks]
    items: dict[int, list[_Item]] = {}
    for _ in range(8 * dp + 64 if dp > 1 else 0):
        order = sorted(range(dp), key=lambda rank: (costs[rank], rank))
        if costs[order[-1]] - costs[order[0]] <= ENOUGH * costs[order[-1]]:
            return
        for high, low in _pairs(order):
            for rank in (high, low):
                if rank not in items:
                    items[rank] = _items(ranks[rank])
            if _exchange(items[high], items[low], (costs[high], costs[low]), room):
                break
        else:
            return
        for rank in (high, low):
            del items[rank]
            costs[rank] = sum(one.cost for one in ranks[rank])


def _pairs(order: Sequence[int]) -> Iterator[tuple[int, int]]:
    """A costly and a cheap rank, the extremes first."""
    reach = min(4, len(order) // 2)
    for steps in range(2 * reach - 1):
        for up in range(min(steps, reach - 1) + 1):
            if steps - up < reach:
                yield order[-1 - up], order[steps - up]


def _items(rank: Sequence[Bin]) -> list[_Item]:
    """What a rank could give, cheapest first; nothing, from each of its packs, stands in front."""
    rows = [_Item(one.worth(row), row, one) for one in rank for row in one.rows]
    return [_Item(0.0, NOTHING, one) for one in rank] + sorted(
        rows, key=lambda item: (item.worth, item.bin.load.slots[item.row], item.row)
    )


def _exchange(high: Sequence[_Item], low: Sequence[_Item], costs: tuple[float, float], room: int) -> bool:
    """Does the exchange that brings the two closest; False if none helps."""
    half = (costs[0] - costs[1]) / 2
    worths = [item.worth for item in low]
    best, score = None, half * 0.9  # less is no progress
    for give in high:
        if give.row == NOTHING or give.worth <= 0:
            continue
        at = bisect_left(worths, give.worth - half)
        for take in low[max(at - NEAREST, 0) : at + NEAREST]:
            if abs(give.worth - take.worth - half) < score:
                left = _distance(give, take, costs, room)
                if left is not None and left < score:
                    best, score = (give, take), left
        if score <= ENOUGH / 4 * costs[0]:
            break
    if best is not None:
        _swap(*best)
    return best is not None


def _swap(give: _Item, take: _Item) -> None:
    give.bin.remove(give.row)
    if take.row != NOTHING:
        take.bin.remove(take.row)
        give.bin.add(take.row)
    take.bin.add(give.row)


def _distance(give: _Item, take: _Item, costs: tuple[float, float], room: int) -> float | None:
    """The larger cost above the old mean after an exchange, None where it is not allowed; tried and taken back."""
    if take.row == NOTHING and len(give.bin.rows) == 1:
        return None
    load = give.bin.load
    change = load.slots[give.row] - (load.slots[take.row] if take.row != NOTHING else 0)
    if give.bin.slots - change > room or take.bin.slots + change > room:
        return None
    before = give.bin.cost, take.bin.cost
    _swap(give, take)
    high, low = costs[0] + give.bin.cost - before[0], costs[1] + take.bin.cost - before[1]
    most = load.max_patches
    crowded = most is not None and max(give.bin.patches, take.bin.patches) > most
    take.bin.remove(give.row)
    if take.row != NOTHING:
        give.bin.remove(take.row)
        take.bin.add(take.row)
    give.bin.add(give.row)
    # Taking back in floating point may leave a last bit behind; the exact values were there before.
    give.bin.cost, take.bin.cost = before
    return None if crowded or min(high, low) < costs[1] else max(high, low) - sum(costs) / 2
