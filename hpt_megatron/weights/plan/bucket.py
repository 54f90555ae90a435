"""Transfers in the order of the model, in buckets of at most so many bytes, each of whole modules of the receiver.

A receiver that reloads layer by layer keeps what it has of a module until the module is complete. So a bucket ends
where a module ends, and its buffer may be used again once its modules have been loaded.

    bytes      of a bucket: what the rank that receives most of it receives
    lane       the pipeline rank that sends it; a bucket has one, so that lanes can send at the same time. A tied matrix
               is in the first one's, though its copy on the last sends it to where that is nearer
    oversize   a module larger than a bucket: it travels in a bucket of its own, beside no other

Invariants
    1. Every module is in exactly one bucket, with all its parameters.
    2. A bucket is within the bound, or oversize and of one module.

Example: at tp 1 the embedding of a 72B model has 2.32 GiB, so with buckets of 1 GiB it is one that is oversize.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from hpt_megatron.errors import UserError
from hpt_megatron.weights.plan.held import Layout
from hpt_megatron.weights.plan.transfer import Copies, Placement, Transfer


@dataclass(frozen=True)
class Bucket:
    """Modules that travel together."""

    lane: int
    modules: tuple[str, ...]
    transfers: tuple[Transfer, ...]
    bytes: int
    oversize: bool


@dataclass(frozen=True)
class Plan:
    """From one layout to another; `element` is the size of a number in bytes."""

    source: Layout
    target: Layout
    placement: Placement
    element: int
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True)
class Bound:
    """The size of a number and of a bucket, in bytes."""

    element: int
    bucket: int


class _Open:
    """The bucket that is being filled."""

    def __init__(self, lane: int) -> None:
        self.lane = lane
        self.modules: list[str] = []
        self.transfers: list[Transfer] = []
        self.received: Counter[int] = Counter()

    def with_(self, received: Counter[int]) -> int:
        """Elements at its busiest receiver, once a module has joined."""
        return max((self.received[rank] + count for rank, count in received.items()), default=0)

    def closed(self, bound: Bound) -> Bucket:
        size = max(self.received.values(), default=0) * bound.element
        return Bucket(self.lane, tuple(self.modules), tuple(self.transfers), size, size > bound.bucket)


def make_plan(
    source: Layout, target: Layout, placement: Placement, bound: Bound, without: Collection[str] = ()
) -> Plan:
    """The plan; modules whose tensors are all in `without` (frozen ones, sent before) do not travel."""
    if bound.element < 1 or bound.bucket < 1:
        what = f"numbers of {bound.element} bytes in buckets of {bound.bucket} bytes"
        raise UserError(what, where="rollout.publish_bucket_mb", mend="1 or more of each")
    copies, buckets = Copies(source, placement), []
    current = _Open(0)
    for module, parameters in target.modules():
        if all(tensor in without for parameter in parameters for tensor in parameter.tensors()):
            continue
        transfers = [transfer for parameter in parameters for transfer in copies.transfers(parameter)]
        received: Counter[int] = Counter()
        for transfer in transfers:
            received[transfer.target] += transfer.piece.elements
        lane = copies.lane(parameters[0])
        full = current.with_(received) * bound.element > bound.bucket
        if current.modules and (full or lane != current.lane):
            buckets.append(current.closed(bound))
            current = _Open(lane)
        current.lane = lane
        current.modules.append(module)
        current.transfers += transfers
        current.received.update(received)
    if current.modules:
        buckets.append(current.closed(bound))
    return Plan(source, target, placement, bound.element, tuple(buckets))
