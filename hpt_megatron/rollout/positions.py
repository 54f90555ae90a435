"""Positions of a trajectory's tokens for M-RoPE, from all of its ids, on numpy alone.

    text     (p, p, p), and p + 1 for the next
    image    (p, p + row, p + column) over its merged grid; what follows starts at the largest position so far + 1

Decision: after every observation everything is computed again. Positions behind an image depend on its grid, so a list
that is patched is one that is wrong sooner or later; the whole list costs microseconds.

The trainer has its own in torch, for packed rows and videos (`mcore/packing/positions.py:row_positions`), and the
engine its own; tests hold all of them and transformers' against one another.

Example:
    >>> positions([1, 7, 7, 2], [(1, 2, 4)], image_pad=7).tolist()
    [[0, 1, 1, 3], [0, 1, 1, 3], [0, 1, 2, 3]]
    >>> delta([1, 7, 7, 2], [(1, 2, 4)], image_pad=7)
    0
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Grid = tuple[int, int, int]


def positions(ids: Sequence[int], grids: Sequence[Grid], image_pad: int, merge: int = 2) -> NDArray[np.int64]:
    """[3, L]: time, height, width of each token; the images' grids in the order of their placeholders."""
    marks = np.flatnonzero(np.asarray(ids) == image_pad)
    expected = sum(t * (h // merge) * (w // merge) for t, h, w in grids)
    if len(marks) != expected:
        raise ValueError(f"{len(marks)} placeholders, and the grids ask for {expected}")
    found = np.empty((3, len(ids)), dtype=np.int64)
    at = following = used = 0
    for t, h, w in grids:
        rows, columns = h // merge, w // merge
        first, count = int(marks[used]), t * rows * columns
        if marks[used + count - 1] != first + count - 1:
            raise ValueError(f"the placeholders of the image at token {first} are not {count} in a row")
        found[:, at:first] = np.arange(following, following + first - at)
        following += first - at
        found[:, first : first + count] = following + np.indices((t, rows, columns)).reshape(3, count)
        following += max(t, rows, columns)
        at, used = first + count, used + count
    found[:, at:] = np.arange(following, following + len(ids) - at)
    return found


def delta(ids: Sequence[int], grids: Sequence[Grid], image_pad: int, merge: int = 2) -> int:
    """What a later token's position is off its place in the row."""
    return int(positions(ids, grids, image_pad, merge).max(initial=-1)) + 1 - len(ids)
