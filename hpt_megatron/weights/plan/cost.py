"""What a plan costs: bytes per rank and link, buffers, and the seconds that named links would take at best.

    sent, received   bytes that leave or reach a rank's device, by how far they go
    links            bytes from a rank to a rank, those on one device included
    buffers          the most that a device holds beside its weights: what it has packed, once for all that receive it,
                     and what has reached it, in two buckets at a time (one is filled while the other is read); an
                     oversize bucket has no other beside it

Seconds are bytes over a link's rate at the busiest rank, which sends and receives at the same time. Nothing is added
for latency, packing or loading: a publish that takes longer can be held against them.

Invariants
    1. sum(links) == sum of what the receivers hold; sent and received add up to the same.
    2. Seconds in turn, bucket after bucket, are never fewer than at once.

Example: 10 GB at the busiest rank are 0.022 s on NVLink4.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from hpt_megatron.weights.plan.bucket import Bucket, Plan
from hpt_megatron.weights.plan.transfer import DEVICE, NETWORK, NODE

GB = 10**9
LINKS = {"NVLink4": 450.0, "InfiniBand 400 Gb/s": 50.0, "PCIe 5 x16": 55.0}
"""GB/s in each direction."""
PLACED = (LINKS["NVLink4"], LINKS["InfiniBand 400 Gb/s"])
"""Within a node and between nodes."""


@dataclass(frozen=True)
class Traffic:
    """What crosses devices: bytes by (rank, distance), sent by ranks of the source and received by the target's."""

    sent: Counter[tuple[int, int]]
    received: Counter[tuple[int, int]]

    def busiest(self, seconds: Callable[[int, int], float]) -> float:
        """The seconds of the rank that takes longest, from its bytes within the node and between nodes."""
        return max(
            (
                seconds(side[rank, NODE], side[rank, NETWORK])
                for side in (self.sent, self.received)
                for rank in {rank for rank, _ in side}
            ),
            default=0.0,
        )


@dataclass(frozen=True)
class Cost:
    """A plan in bytes."""

    traffic: Traffic
    by_bucket: tuple[Traffic, ...]
    by_distance: tuple[int, int, int]
    links: Counter[tuple[int, int]]
    buffers: tuple[int, ...]

    @property
    def total(self) -> int:
        """All that is received."""
        return sum(self.by_distance)

    def sent(self, rank: int) -> int:
        """Bytes that leave a rank of the source for another device."""
        return self.traffic.sent[rank, NODE] + self.traffic.sent[rank, NETWORK]

    def received(self, rank: int) -> int:
        """Bytes that reach a rank of the target from another device."""
        return self.traffic.received[rank, NODE] + self.traffic.received[rank, NETWORK]

    def seconds(self, within: float, between: float) -> tuple[float, float]:
        """At once and bucket after bucket, at so many GB/s within a node and between nodes."""

        def of(node: int, network: int) -> float:
            return node / (within * GB) + network / (between * GB)

        return self.traffic.busiest(of), sum(each.busiest(of) for each in self.by_bucket)


def cost(plan: Plan) -> Cost:
    """Counts a plan's bytes."""
    by_bucket = tuple(_traffic(plan, bucket) for bucket in plan.buckets)
    distances, links = [0, 0, 0], Counter[tuple[int, int]]()
    for bucket in plan.buckets:
        for source, target, piece in bucket.transfers:
            size = piece.elements * plan.element
            links[source, target] += size
            distances[plan.placement.distance(source, target)] += size
    sent, received = _sum(each.sent for each in by_bucket), _sum(each.received for each in by_bucket)
    here, node, network = distances
    return Cost(Traffic(sent, received), by_bucket, (here, node, network), links, _buffers(plan))


def _traffic(plan: Plan, bucket: Bucket) -> Traffic:
    sent, received = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for source, target, piece in bucket.transfers:
        distance = plan.placement.distance(source, target)
        if distance != DEVICE:
            size = piece.elements * plan.element
            sent[source, distance] += size
            received[target, distance] += size
    return Traffic(sent, received)


def _sum(counts: Iterable[Counter[tuple[int, int]]]) -> Counter[tuple[int, int]]:
    total = Counter[tuple[int, int]]()
    for each in counts:
        total.update(each)
    return total


def _buffers(plan: Plan) -> tuple[int, ...]:
    """By device."""
    devices = max(plan.source.ranks, plan.target.ranks + plan.placement.apart)
    peak = [0] * devices
    needed = [_buffer(plan, bucket) for bucket in plan.buckets]
    for own in needed:
        for device, size in own.items():
            peak[device] = max(peak[device], size)
    for (one, first), (two, second) in pairwise(zip(plan.buckets, needed, strict=True)):
        if not one.oversize and not two.oversize:
            for device in first.keys() | second.keys():
                peak[device] = max(peak[device], first[device] + second[device])
    return tuple(peak)


def _buffer(plan: Plan, bucket: Bucket) -> Counter[int]:
    """What a device packs of a bucket, and what reaches it from others."""
    packed: defaultdict[int, set[tuple[str, int, int, int]]] = defaultdict(set)
    size = Counter[int]()
    for source, target, piece in bucket.transfers:
        if piece.sent not in packed[source]:
            packed[source].add(piece.sent)
            size[source] += piece.elements * plan.element
        if plan.placement.distance(source, target) != DEVICE:
            size[target + plan.placement.apart] += piece.elements * plan.element
    return size
