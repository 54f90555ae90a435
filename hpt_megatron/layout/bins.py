"""Rows into packs: as few packs as are needed, of even length, rows that share images together where there is room.

Two ways, both greedy, both on pieces: rows that share images, fewer and fewer of them until the packs suffice.
`_evenly` gives the longest to the emptiest of a fixed number of packs, so lengths come out even. Where that fails,
packs are nearly full, and `_tightly` puts the longest where the least room is left, at the least capacity that does.

Invariants
    1. Every row is in one pack. No pack exceeds its capacity, nor the most patches, an image counted once.
    2. A pack stays empty only if there are fewer rows than packs.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence

from hpt_megatron.layout.sizes import ImageSize, PackLimits, RowSize

PIECES = (2, 4, 8)  # of a mean pack, a piece takes at most one part in so many
HALVINGS = 4  # of the room that a tight packing leaves, to spread it over all packs
TRIES = 256  # packs looked at for a row when patches are limited; the emptiest come first


class Load:
    """The rows and images of a plan in the form that packing asks for: slots, and each image of a row once."""

    def __init__(self, rows: Sequence[RowSize], images: Sequence[ImageSize], limits: PackLimits) -> None:
        self.limits = limits
        self.capacity, self.max_patches = limits.capacity, limits.max_patches
        self.slots = [limits.row_slots(row.length) for row in rows]
        self.costs = [row.cost for row in rows]
        self.images = [tuple(sorted(set(row.images))) for row in rows]
        self.patches = [image.patches for image in images]
        self.image_costs = [image.cost for image in images]
        self.longest_first = sorted(range(len(rows)), key=lambda row: (self.rank(row), row))

    def rank(self, row: int) -> tuple[int, float]:
        """Sorts the longest first, and among rows of one length the dearest, whatever their order was."""
        return -self.slots[row], -self.costs[row]

    def at_least(self) -> int:
        """No fewer packs can hold the rows."""
        bounds = [1, -(-sum(self.slots) // self.capacity), sum(2 * slots > self.capacity for slots in self.slots)]
        if self.max_patches is not None:
            shown = {image for images in self.images for image in images}
            bounds.append(-(-sum(self.patches[image] for image in shown) // self.max_patches))
        return max(bounds)


class Bin:
    """A pack that is being filled."""

    __slots__ = ("cost", "held", "load", "patches", "rows", "slots")

    def __init__(self, load: Load) -> None:
        self.load = load
        self.rows: list[int] = []
        self.held: dict[int, int] = {}  # image -> rows of this pack that show it
        self.slots, self.patches, self.cost = 0, 0, 0.0

    def add(self, row: int) -> None:
        """Takes a row in, whether it fits or not."""
        load = self.load
        self.rows.append(row)
        self.slots += load.slots[row]
        self.cost += load.costs[row]
        for image in load.images[row]:
            count = self.held.get(image, 0)
            self.held[image] = count + 1
            if count == 0:
                self.patches += load.patches[image]
                self.cost += load.image_costs[image]

    def remove(self, row: int) -> None:
        """Gives a row back."""
        load = self.load
        self.rows.remove(row)
        self.slots -= load.slots[row]
        self.cost -= load.costs[row]
        for image in load.images[row]:
            self.held[image] -= 1
            if self.held[image] == 0:
                del self.held[image]
                self.patches -= load.patches[image]
                self.cost -= load.image_costs[image]

    def worth(self, row: int) -> float:
        """What the pack costs less without one of its rows."""
        load = self.load
        alone = sum(load.image_costs[image] for image in load.images[row] if self.held[image] == 1)
        return load.costs[row] + alone

    def fits(self, rows: Sequence[int]) -> bool:
        """Whether there is room for all of these rows."""
        load = self.load
        if self.slots + sum([load.slots[row] for row in rows]) > load.capacity:
            return False
        if load.max_patches is None or self.patches == 0:  # a piece alone was cut to fit
            return True
        new = {image for row in rows for image in load.images[row] if image not in self.held}
        return self.patches + sum([load.patches[image] for image in new]) <= load.max_patches

    def fullness(self) -> int:
        """Comparable among packs: the larger of the shares of tokens and of patches."""
        if self.load.max_patches is None:
            return self.slots
        return max(self.slots * self.load.max_patches, self.patches * self.load.capacity)


def fewest_packs(load: Load) -> list[Bin]:
    """Packs for all rows, in a number that is a multiple of `together` and the least that was found."""
    together = load.limits.together
    groups = _sharing(load)
    low = -(-load.at_least() // together)
    best = _at(load, groups, low * together)
    if best is None:  # rarely, so only now: how many suffice for certain, and the least in between
        best = _tightly(load, [[row] for row in load.longest_first], load.capacity)
        low, high = low + 1, -(-len(best) // together)
        while low <= high:
            middle = (low + high) // 2
            found = _at(load, groups, middle * together)
            if found is None:
                low = middle + 1
            else:
                best, high = found, middle - 1
    _leave_none_empty(best)
    return best


def _at(load: Load, groups: Sequence[Sequence[int]], count: int) -> list[Bin] | None:
    """That many packs, rows that share images in pieces as large as the room allows; None if there is no way."""
    mean = sum(load.slots) / count
    shared = len(groups) < len(load.slots)
    for pieces in [*(_pieces(load, groups, mean / parts) for parts in PIECES if shared), _pieces(load, groups, 0)]:
        found = _evenly(load, pieces, count) or _tightly_but_evenly(load, pieces, count)
        if found is not None:
            return found
    return None


def _tightly_but_evenly(load: Load, pieces: Sequence[Sequence[int]], count: int) -> list[Bin] | None:
    """The tight way with the least capacity at which it needs no more packs than that; None if the most is too little.

    So the room that is left is spread over all packs.
    """
    best = _tightly(load, pieces, load.capacity)
    if len(best) > count:
        return None
    low, high = sum(load.slots) // count, load.capacity
    for _ in range(HALVINGS):
        middle = (low + high) // 2
        found = _tightly(load, pieces, middle)
        if len(found) <= count:
            best, high = found, middle
        else:
            low = middle
    return best + [Bin(load) for _ in range(count - len(best))]


def _sharing(load: Load) -> list[list[int]]:
    """Rows in groups: those that share an image, directly or through others; each group in the order of its rows."""
    parent = list(range(len(load.patches)))

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for images in load.images:
        for image in images[1:]:
            one, other = sorted((root(images[0]), root(image)))
            parent[other] = one
    groups: dict[int, list[int]] = {}
    for row, images in enumerate(load.images):
        groups.setdefault(root(images[0]) if images else -1 - row, []).append(row)
    return list(groups.values())


def _pieces(load: Load, groups: Sequence[Sequence[int]], most: float) -> list[list[int]]:
    """Groups cut where they take more than `most` slots or too many patches, the longest piece first."""
    pieces: list[list[int]] = []
    for group in groups:
        piece, slots, shown = [group[0]], load.slots[group[0]], set(load.images[group[0]])
        for row in group[1:]:
            more = shown.union(load.images[row])
            crowded = load.max_patches is not None and sum(load.patches[image] for image in more) > load.max_patches
            if slots + load.slots[row] > most or crowded:
                pieces.append(piece)
                piece, slots, shown = [row], load.slots[row], set(load.images[row])
            else:
                piece.append(row)
                slots, shown = slots + load.slots[row], more
        pieces.append(piece)
    return sorted(pieces, key=lambda piece: _longest_first(load, piece))


def _longest_first(load: Load, piece: Sequence[int]) -> tuple[int, float, int]:
    return -sum(load.slots[row] for row in piece), -sum(load.costs[row] for row in piece), piece[0]


def _evenly(load: Load, pieces: Sequence[Sequence[int]], count: int) -> list[Bin] | None:
    """The longest piece first, to the emptiest pack; None if a row fits nowhere."""
    bins = [Bin(load) for _ in range(count)]
    queue = [(0, number) for number in range(count)]
    for piece in pieces:
        if _put(bins, queue, piece):
            continue
        for row in sorted(piece, key=lambda row: (load.rank(row), row)):
            if not _put(bins, queue, (row,)):
                return None
    return bins


def _put(bins: Sequence[Bin], queue: list[tuple[int, int]], piece: Sequence[int]) -> bool:
    passed = []
    done = False
    # Without a limit on patches the emptiest pack is the one with the most room, and decides alone.
    for _ in range(1 if bins[0].load.max_patches is None else min(TRIES, len(bins))):
        entry = heapq.heappop(queue)
        chosen = bins[entry[1]]
        if chosen.fits(piece):
            for row in piece:
                chosen.add(row)
            passed.append((chosen.fullness(), entry[1]))
            done = True
            break
        passed.append(entry)
    for entry in passed:
        heapq.heappush(queue, entry)
    return done


def _tightly(load: Load, pieces: Sequence[Sequence[int]], capacity: int) -> list[Bin]:
    """The longest piece first, where the least room is left after it; a new pack if there is no room.

    A piece that is longer than the capacity gets a pack of its own, to which nothing is added.
    """
    bins: list[Bin] = []
    room: list[tuple[int, int]] = []  # sorted: what is free, and in which pack
    for piece in pieces:
        first = at = bisect_left(room, (sum(load.slots[row] for row in piece), -1))
        last = min(len(room), first + TRIES)
        while at < last and not bins[room[at][1]].fits(piece):
            at += 1
        if at < last:
            number = room.pop(at)[1]
        else:
            number = len(bins)
            bins.append(Bin(load))
        for row in piece:
            bins[number].add(row)
        insort(room, (capacity - bins[number].slots, number))
    return bins


def _leave_none_empty(bins: Sequence[Bin]) -> None:
    """Packs without a row get every other row of the longest pack that has two or more."""
    longest = [(-one.slots, number) for number, one in enumerate(bins) if len(one.rows) > 1]
    heapq.heapify(longest)
    for empty, target in enumerate(bins):
        if target.rows or not longest:
            continue
        source = heapq.heappop(longest)[1]
        for row in sorted(bins[source].rows, key=lambda row: (target.load.rank(row), row))[1::2]:
            bins[source].remove(row)
            target.add(row)
        for number in (source, empty):
            if len(bins[number].rows) > 1:
                heapq.heappush(longest, (-bins[number].slots, number))
