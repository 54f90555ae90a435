"""Images in Ray's object store: put there once by whoever made them, asked for by the rank that encodes them.

The driver and the batches that it hands out carry references alone. Small images share an object, so that a reference
never costs more than what it refers to.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import torch
from torch import Tensor

from hpt_megatron.protocol.arrays import arrays, tensors
from hpt_megatron.protocol.batch import Images

AT_LEAST = 8 << 20
"""Bytes of an object, unless there are no more."""


@dataclass(frozen=True)
class Stored:
    """Some patches of an object."""

    reference: Any
    start: int
    stop: int

    def __call__(self) -> Tensor:
        """The patches, in the memory of the store."""
        return tensors(ray.get(self.reference))["patches"][self.start : self.stop]


def keep(images: Images) -> Images:
    """The same images, with their patches in the object store."""
    if images.kept is not None or not len(images):
        return images
    kept = tuple(stored for group in _groups(images) for stored in _put(group))
    return Images(images.grids, images.patches[:0], images.seconds, kept)


def _groups(images: Images) -> Iterator[list[Tensor]]:
    group: list[Tensor] = []
    for piece in torch.split(images.patches, images.sizes):
        group.append(piece)
        if sum(each.nbytes for each in group) >= AT_LEAST:
            yield group
            group = []
    if group:
        yield group


def _put(group: list[Tensor]) -> list[Stored]:
    reference = ray.put(arrays({"patches": torch.cat(group)}))
    stops = torch.tensor([len(piece) for piece in group]).cumsum(0).tolist()
    return [Stored(reference, start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
