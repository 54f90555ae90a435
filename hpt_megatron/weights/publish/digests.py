"""Digests of what is held, part by part of a tensor, so that trainer and engine can be compared without moving either.

A part is rows of a checkpoint's tensor, as a layout of the engine cuts it. The engine reads its parts from what it
computes with, the trainer cuts the same rows from whole tensors.

Invariants
    1. Equal numbers have equal digests, on both sides and under every layout; a zero has no sign.
    2. What is told apart is told by the names of tensors.

Example:
    >>> part_name("lm_head.weight", 0, 8)
    'lm_head.weight[0:8]'
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from hpt_megatron.errors import HptError
from hpt_megatron.weights.plan.held import Layout

Digests = dict[str, str]
SHOWN = 8


def part_name(tensor: str, start: int, stop: int) -> str:
    """A part of a tensor, in words."""
    return f"{tensor}[{start}:{stop}]"


def digest(values: Tensor) -> str:
    """SHA-256 of the numbers, in the order of their axes."""
    plain = (values.detach().cpu().contiguous() + 0.0).view(torch.uint8)
    return hashlib.sha256(plain.numpy().tobytes()).hexdigest()


def digests(layout: Layout, tensors: Iterable[tuple[str, Tensor]]) -> Digests:
    """Of the parts that a layout cuts whole tensors into, as they come."""
    wanted: defaultdict[str, set[tuple[int, int, int]]] = defaultdict(set)
    for parameter in layout.parameters:
        for share in parameter.shares:
            for part in share.parts:
                wanted[part.tensor].add((parameter.axis, part.start, part.stop))
    return {
        part_name(name, start, stop): digest(tensor.narrow(axis, start, stop - start))
        for name, tensor in tensors
        for axis, start, stop in sorted(wanted.get(name, ()))
    }


def compare(trained: Mapping[str, str], served: Mapping[str, str]) -> None:
    """Nothing, or an error that names the tensors of which an engine holds other numbers, or none."""
    wrong = sorted(name for name in trained.keys() | served.keys() if trained.get(name) != served.get(name))
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        what = f"{len(wrong)} parts are not what the trainer holds: {', '.join(wrong[:SHOWN])}{more}"
        raise HptError(what, where="engine", mend="publish again, everything, before it generates")
