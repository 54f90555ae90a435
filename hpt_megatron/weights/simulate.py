"""A plan executed on numpy: what every rank holds, and what it holds after the transfers.

It reads and writes by the plan's boxes and nothing else, so what is shown here about a plan holds for every transport
that moves the same boxes.

Invariants
    1. Padding is zeros and is never written.
    2. `gather(layout, hold(layout, tensors)) == tensors`, and so after any chain of plans.

Example:
    trained = hold(plan.source, tensors)
    served = execute(plan, trained)
    gather(plan.target, served)  # the tensors again
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpt_megatron.errors import HptError
from hpt_megatron.weights.plan.bucket import Plan
from hpt_megatron.weights.plan.held import Box, Layout, Parameter, Share, box

Array = NDArray[Any]
Held = list[dict[str, Array]]
"""By rank and by the name of the parameter."""


def empty(layout: Layout, dtype: Any = np.float32) -> Held:
    """Every rank's parameters, of zeros."""
    held: Held = [{} for _ in range(layout.ranks)]
    for parameter in layout.parameters:
        for share in parameter.shares:
            for rank in share.ranks:
                held[rank][parameter.name] = np.zeros(shape_here(parameter, share), dtype)
    return held


def hold(layout: Layout, tensors: Mapping[str, Array]) -> Held:
    """Every rank's parameters, from the checkpoint's tensors."""
    held = empty(layout, next(iter(tensors.values())).dtype)
    for parameter in layout.parameters:
        for share in parameter.shares:
            for part in share.parts:
                there = box(parameter.shape, parameter.axis, part.at, part.at + part.rows)
                here = box(parameter.shape, parameter.axis, part.start, part.stop)
                for rank in share.ranks:
                    held[rank][parameter.name][_at(there)] = tensors[part.tensor][_at(here)]
    return held


def gather(layout: Layout, held: Held) -> dict[str, Array]:
    """The checkpoint's tensors, from all ranks; copies that differ are an error."""
    found: dict[str, Array] = {}
    seen: dict[str, NDArray[np.bool_]] = {}
    for parameter in layout.parameters:
        for name in parameter.tensors():
            size = _size(parameter, name)
            found.setdefault(name, np.zeros(size, held[parameter.shares[0].ranks[0]][parameter.name].dtype))
            seen.setdefault(name, np.zeros(size, np.bool_))
        for ranks, part in [(share.ranks, part) for share in parameter.shares for part in share.parts]:
            there = _at(box(parameter.shape, parameter.axis, part.at, part.at + part.rows))
            here = _at(box(found[part.tensor].shape, parameter.axis, part.start, part.stop))
            whole, known = found[part.tensor][here], seen[part.tensor][here]
            for rank in ranks:
                values = held[rank][parameter.name][there]
                if not np.array_equal(whole[known], values[known]):
                    raise HptError(f"rank {rank} has another copy of {part.tensor}", where=parameter.name)
                whole[...], known[...] = values, True
    return found


def execute(plan: Plan, source: Held, target: Held | None = None) -> Held:
    """What the ranks of the target hold, from what those of the source hold; bucket by bucket, in order."""
    if target is None:
        target = empty(plan.target, next(iter(source[0].values())).dtype)
    for bucket in plan.buckets:
        for sender, receiver, piece in bucket.transfers:
            values = source[sender][piece.source_parameter][_at(piece.source_box)]
            target[receiver][piece.target_parameter][_at(piece.target_box)] = values
    return target


def shape_here(parameter: Parameter, share: Share) -> tuple[int, ...]:
    """The shape of a parameter on the ranks of a share."""
    return tuple(share.length if axis == parameter.axis else size for axis, size in enumerate(parameter.shape))


def _size(parameter: Parameter, tensor: str) -> tuple[int, ...]:
    """The shape of a whole tensor, as far as the parts of a layout tell."""
    stop = max(part.stop for share in parameter.shares for part in share.parts if part.tensor == tensor)
    return tuple(stop if axis == parameter.axis else size for axis, size in enumerate(parameter.shape))


def _at(where: Box) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in where)
