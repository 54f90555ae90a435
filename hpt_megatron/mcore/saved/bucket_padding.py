"""Mends the offsets by which megatron-core 0.16.1 cuts a fully reshardable optimizer state.

The distributed optimizer keeps parameters in a buffer of buckets, each padded at its end. To save in the format
`fully_reshardable` it joins the buckets without their padding, and then cuts parameters out with offsets that count the
padding. With more than one bucket (so with every overlapped reduction) and any padding, parameters after the first
bucket are saved shifted, which shows as one line in the log. Here the offsets are those of the joined tensor.
"""

import contextlib
from collections.abc import Iterator
from typing import Any


def joined_offsets(index: dict[Any, tuple[int, int, int]], buckets: list[Any]) -> dict[Any, tuple[int, int, int]]:
    """Start and end of each parameter once the buckets stand side by side without their padding."""
    shifts, joined = [], 0
    for bucket in buckets:
        shifts.append(joined - bucket.offset)
        joined += bucket.numel_unpadded
    return {param: (start + shifts[i], end + shifts[i], i) for param, (start, end, i) in index.items()}


@contextlib.contextmanager
def joined_buckets(optimizer: Any) -> Iterator[None]:
    """While this lasts, the optimizer's buffers answer with the offsets of the joined tensor."""
    parts = getattr(optimizer, "chained_optimizers", [optimizer])
    buffers = [buffer for part in parts for buffer in getattr(part, "buffers", [])]
    before = [buffer.param_index_map for buffer in buffers]
    for buffer in buffers:
        buffer.param_index_map = joined_offsets(buffer.param_index_map, buffer.buckets)
    try:
        yield
    finally:
        for buffer, index in zip(buffers, before, strict=True):
            buffer.param_index_map = index
