"""The slices that two layouts have in common, and which rank sends each of them to which.

A piece is one box of one tensor: where it lies in the tensor, in the sender's parameter and in the receiver's. There
is no transform beyond that: interleaving, splitting and padding are in the coordinates.

Who sends: of the ranks that hold a copy, the receiver's own device, else one on its node, else any; among equals the
one that has sent least so far. So copies share the work, and of tied matrices, which are two copies of one tensor, one
sends.

Invariants
    1. The pieces for a share cover each element of its parts once; padding is not sent.
    2. A piece lies inside one part of its sender's.
    3. A rank receives its own share and nothing else: no layouts allow fewer bytes.

Example:
    >>> Placement(per_node=8).distance(3, 3), Placement(per_node=8).distance(3, 4), Placement(per_node=8).distance(3, 9)
    (0, 1, 2)
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from hpt_megatron.config.shapes import Shape
from hpt_megatron.errors import HptError
from hpt_megatron.weights.plan.held import Box, Layout, Parameter, Part, Share, box

DEVICE, NODE, NETWORK = 0, 1, 2
"""How far apart sender and receiver are: not at all, within a node, on two nodes."""


class Piece(NamedTuple):
    """Rows `start` to `stop` of a tensor, from `source_at` on at the sender and from `target_at` on at the receiver."""

    tensor: str
    shape: Shape
    axis: int
    start: int
    stop: int
    source_parameter: str
    source_at: int
    target_parameter: str
    target_at: int
    elements: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start

    @property
    def tensor_box(self) -> Box:
        """Where it lies in the checkpoint's tensor."""
        return box(self.shape, self.axis, self.start, self.stop)

    @property
    def source_box(self) -> Box:
        """Where it lies in the sender's parameter."""
        return box(self.shape, self.axis, self.source_at, self.source_at + self.rows)

    @property
    def target_box(self) -> Box:
        """Where it lies in the receiver's parameter."""
        return box(self.shape, self.axis, self.target_at, self.target_at + self.rows)

    @property
    def sent(self) -> tuple[str, int, int, int]:
        """What the sender packs: the same for all that receive these rows."""
        return (self.source_parameter, self.axis, self.source_at, self.rows)


class Transfer(NamedTuple):
    """One piece from a rank of the source to a rank of the target."""

    source: int
    target: int
    piece: Piece


@dataclass(frozen=True)
class Placement:
    """Which ranks share a device and a node. `apart` is the device of the target's rank 0: 0 where both sides share."""

    per_node: int
    apart: int = 0

    def distance(self, source: int, target: int) -> int:
        """From a rank of the source to a rank of the target."""
        device = target + self.apart
        if source == device:
            return DEVICE
        return NODE if source // self.per_node == device // self.per_node else NETWORK


class Copies:
    """Where the tensors of a layout are, and how much each of its ranks has been asked to send."""

    def __init__(self, layout: Layout, placement: Placement) -> None:
        self.placement = placement
        self.load = [0] * layout.ranks
        self.where: dict[str, list[tuple[Parameter, Share, Part]]] = {}
        for parameter in layout.parameters:
            for share in parameter.shares:
                for part in share.parts:
                    self.where.setdefault(part.tensor, []).append((parameter, share, part))

    def transfers(self, parameter: Parameter) -> list[Transfer]:
        """Everything that the ranks of a target's parameter receive."""
        found = []
        for share in parameter.shares:
            for part in share.parts:
                for options in self._options(parameter, part):
                    found += [self._choose(options, target) for target in share.ranks]
        return found

    def lane(self, parameter: Parameter) -> int:
        """The pipeline rank that its tensors come from."""
        return self.where[parameter.tensors()[0]][0][0].lane

    def _options(self, parameter: Parameter, part: Part) -> Iterable[list[tuple[Piece, Sequence[int]]]]:
        """Stretch by stretch of a part, the pieces that could fill it, each with the ranks that hold it."""
        across = 1
        for axis, size in enumerate(parameter.shape):
            across *= size if axis != parameter.axis else 1
        known = [
            (source, share, _along(parameter, source, share, own))
            for source, share, own in self.where.get(part.tensor, [])
        ]
        held = [one for one in known if one[2].start < part.stop and one[2].stop > part.start]
        held.sort(key=lambda one: one[2].start)
        edges = sorted({part.start, part.stop, *(e for _, _, own in held for e in (own.start, own.stop))})
        edges = edges[bisect_right(edges, part.start) - 1 : bisect_right(edges, part.stop)]
        for start, stop in pairwise(edges):
            options: list[tuple[Piece, Sequence[int]]] = []
            for source, share, own in held:
                if own.start <= start and stop <= own.stop:
                    piece = Piece(
                        part.tensor,
                        parameter.shape,
                        parameter.axis,
                        start,
                        stop,
                        source.name,
                        own.at + start - own.start,
                        parameter.name,
                        part.at + start - part.start,
                        (stop - start) * across,
                    )
                    options.append((piece, share.ranks))
            if not options:
                raise HptError(f"rows {start} to {stop} are on no rank of the source", where=part.tensor)
            yield options

    def _choose(self, options: list[tuple[Piece, Sequence[int]]], target: int) -> Transfer:
        """The nearest copy, and among equals the one that has sent least."""
        load, distance = self.load, self.placement.distance
        _, _, source, number = min(
            (distance(rank, target), load[rank], rank, number)
            for number, (_, ranks) in enumerate(options)
            for rank in ranks
        )
        piece = options[number][0]
        if distance(source, target) != DEVICE:
            load[source] += piece.elements
        return Transfer(source, target, piece)


def _along(target: Parameter, source: Parameter, share: Share, own: Part) -> Part:
    """A part of the source in rows of the target's axis; a tensor that is there whole can be cut along any."""
    if source.axis == target.axis:
        return own
    if len(share.parts) > 1 or own.rows != share.length:
        raise HptError("is cut along two axes", where=own.tensor)
    return Part(own.tensor, 0, target.shape[target.axis], 0)
