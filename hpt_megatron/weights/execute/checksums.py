"""Checksums of what is written, counted in other threads while the next tensors are on their way.

    with Checksums(target) as sums:
        sums.add(("decoder.final_layernorm.weight", file, start, end), {"model.norm.weight": tensor})

Invariants
    1. Lines reach the target's journal in the order in which tensors were written, each after its numbers.
    2. What waits for its checksum is bounded: `WAITING` bytes and one parameter.
"""

import hashlib
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from hpt_megatron.weights.execute.mapped import raw
from hpt_megatron.weights.execute.target import Piece, Target

WAITING = 2**28
THREADS = 2

Place = tuple[str, str, int, int]
"""A thing's name, its file, its first byte and the one after its last."""


class Checksums:
    """See the module."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._pool = ThreadPoolExecutor(THREADS)
        self._waiting: deque[tuple[Place, dict[str, Future[str]], int]] = deque()
        self._bytes = 0

    def __enter__(self) -> "Checksums":
        return self

    def __exit__(self, kind: object, _error: object, _trace: object) -> None:
        while self._waiting and kind is None:
            self._settle()
        self._pool.shutdown(cancel_futures=True)

    def add(self, place: Place, tensors: Mapping[str, Tensor]) -> None:
        """A thing that has been written, and the hub's tensors that it was made of."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        self._waiting.append((place, {name: self._pool.submit(checksum, one) for name, one in tensors.items()}, size))
        self._bytes += size
        while self._bytes > WAITING and len(self._waiting) > 1:
            self._settle()

    def _settle(self) -> None:
        place, sums, size = self._waiting.popleft()
        self._target.wrote(Piece(*place, {name: one.result() for name, one in sums.items()}))
        self._bytes -= size


def checksum(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(raw(tensor)).hexdigest()
