"""What each rank packs, and what each rank takes out: a plan in byte offsets, ready for a transport.

    parcel   what one sender packs of one bucket: runs, one after the other
    run      rows that the same receivers want. A transport that sends copies sends each run once to each of them; one
             that shares memory sends nothing, and the receivers read the runs that name them
    crate    what one receiver gets of one bucket: the modules in it, and the runs it takes, with where each row goes

Rows are packed once however many receive them, and a receiver takes its own rows and no others. So the bytes that a
transport counts on each link are those of `plan/cost.py`.

Buckets go in rounds, one of each pipeline stage, so that the stages pack at the same time and no link waits for a
stage that has nothing to send. Within a stage they stay in the order of the model.

Invariants
    1. The runs of a parcel do not overlap and leave no gap.
    2. The runs that name a receiver, over all senders, are the transfers of the bucket to it.
    3. `fingerprint` of two plans is the same only if their buckets and transfers are.

Example: replicated rows of two receivers are one run with two names; a cut weight is two runs with one name each.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

from hpt_megatron.config.shapes import Shape
from hpt_megatron.weights.plan.bucket import Bucket, Plan
from hpt_megatron.weights.plan.transfer import Piece


class Packed(NamedTuple):
    """Rows of a parameter at the sender, and the byte where they begin in the parcel."""

    at: int
    piece: Piece


class Run(NamedTuple):
    """`size` bytes from `at` on in the sender's parcel, that all of `receivers` want."""

    at: int
    size: int
    receivers: tuple[int, ...]


class Parcel(NamedTuple):
    """What `sender` packs of bucket number `bucket`."""

    bucket: int
    sender: int
    size: int
    runs: tuple[Run, ...]
    rows: tuple[Packed, ...]


@dataclass(frozen=True)
class Landing:
    """Rows of a parcel that a receiver writes into its parameter. Plain values, for they travel to the engine."""

    at: int  # byte in the sender's parcel
    parameter: str
    axis: int
    start: int  # row in the parameter
    shape: Shape  # of the box


@dataclass(frozen=True)
class Taken:
    """The runs of one sender's parcel that a receiver takes, and what is in them."""

    sender: int
    runs: tuple[tuple[int, int], ...]  # at, size
    landings: tuple[Landing, ...]


@dataclass(frozen=True)
class Crate:
    """What one receiver gets of one bucket: whole modules."""

    bucket: int
    modules: tuple[str, ...]
    taken: tuple[Taken, ...]


def rounds(plan: Plan) -> Iterator[tuple[int, Bucket]]:
    """The buckets with their numbers, one of each stage in turn."""
    lanes: defaultdict[int, list[tuple[int, Bucket]]] = defaultdict(list)
    for number, bucket in enumerate(plan.buckets):
        lanes[bucket.lane].append((number, bucket))
    for together in zip_longest(*(lanes[lane] for lane in sorted(lanes))):
        yield from (one for one in together if one is not None)


def parcels(plan: Plan) -> list[list[Parcel]]:
    """Bucket by bucket, in the order of travel, what each of its senders packs."""
    return [list(_packed(plan, number, bucket)) for number, bucket in rounds(plan)]


def sent_by(packed: list[list[Parcel]], sender: int) -> list[Parcel]:
    """All that one rank packs, in the order of travel."""
    return [parcel for bucket in packed for parcel in bucket if parcel.sender == sender]


def received_by(plan: Plan, packed: list[list[Parcel]], receiver: int) -> list[Crate]:
    """All that one rank takes of a plan's parcels; buckets that hold nothing for it come with their modules."""
    found = []
    for (number, bucket), parcels_of in zip(rounds(plan), packed, strict=True):
        wanted = defaultdict(list)
        for source, target, piece in bucket.transfers:
            if target == receiver:
                wanted[source, piece.sent].append(piece)
        taken = []
        for parcel in parcels_of:
            runs = tuple((run.at, run.size) for run in parcel.runs if receiver in run.receivers)
            landings = [
                Landing(row.at, piece.target_parameter, piece.axis, piece.target_at, _box_shape(piece))
                for row in parcel.rows
                for piece in wanted.get((parcel.sender, row.piece.sent), ())
            ]
            if runs:
                taken.append(Taken(parcel.sender, runs, tuple(landings)))
        found.append(Crate(number, bucket.modules, tuple(taken)))
    return found


def _packed(plan: Plan, number: int, bucket: Bucket) -> Iterator[Parcel]:
    """The parcels of a bucket, sender by sender."""
    wanted: defaultdict[int, dict[tuple[str, int, int, int], tuple[Piece, set[int]]]] = defaultdict(dict)
    for source, target, piece in bucket.transfers:
        wanted[source].setdefault(piece.sent, (piece, set()))[1].add(target)
    for sender in sorted(wanted):
        together: defaultdict[tuple[int, ...], list[Piece]] = defaultdict(list)
        for piece, targets in wanted[sender].values():
            together[tuple(sorted(targets))].append(piece)
        at, runs, rows = 0, [], []
        for receivers, pieces in sorted(together.items(), key=lambda one: one[0]):
            start = at
            for piece in pieces:
                rows.append(Packed(at, piece))
                at += piece.elements * plan.element
            runs.append(Run(start, at - start, receivers))
        yield Parcel(number, sender, at, tuple(runs), tuple(rows))


def _box_shape(piece: Piece) -> Shape:
    return tuple(stop - start for start, stop in piece.target_box)


def fingerprint(plan: Plan) -> str:
    """Sixteen hexadecimal digits that both sides of a transport compare before the first byte."""
    told = hashlib.sha256(repr((plan.element, plan.source.ranks, plan.target.ranks)).encode())
    for _, bucket in rounds(plan):
        told.update(repr(bucket).encode())
    return told.hexdigest()[:16]


def plain(crates: list[Crate]) -> list[dict[str, Any]]:
    """Crates as lists and dictionaries, for the message that brings them to an engine."""
    return [asdict(crate) for crate in crates]


def from_plain(told: list[dict[str, Any]]) -> list[Crate]:
    """Crates again."""
    found = []
    for crate in told:
        taken = tuple(
            Taken(
                each["sender"],
                tuple((at, size) for at, size in each["runs"]),
                tuple(Landing(**{**landing, "shape": tuple(landing["shape"])}) for landing in each["landings"]),
            )
            for each in crate["taken"]
        )
        found.append(Crate(int(crate["bucket"]), tuple(crate["modules"]), taken))
    return found
