"""Rows together with the images they show: what the trainer is given.

Images are held once and referred to by number, because the rollouts of a prompt show the same ones: they travel once,
and one micro-batch encodes each of them once.

Invariants
    1. `shown[counts]`: row i shows the next `counts[i]` numbers of `shown`, in the order of its placeholders.
    2. Patches of all images stand one after the other, `frames * height * width` of them for each grid.
    3. `seconds` is 0 for a still image, and the seconds between two merged frames for a video.

Sizes that do not fit one another are named on construction. Numbers of images are not looked at: a row that shows one
out of range must be told by its name, and it is the trainer that refuses it. Columns are `rows.py`'s; a batch in a file
is `batch_file.py`'s.

Example:
    >>> images = Images(torch.tensor([[1, 2, 2], [1, 2, 4]]), torch.zeros(12, 3), torch.zeros(2))
    >>> rows = Rows.from_lists({"ids": [[1, 7], [1, 7, 7], [1]]})
    >>> batch = Batch(rows, images, shown=torch.tensor([0, 1]), counts=torch.tensor([1, 1, 0]))
    >>> batch.select(torch.tensor([1, 2])).shown_by(0)
    [1]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hpt_megatron.protocol.arrays import arrays, tensors
from hpt_megatron.protocol.rows import Rows

Kept = Callable[[], Tensor]
"""Asks whoever keeps the patches of one image for them."""


@dataclass(frozen=True)
class Images:
    """The patches of several images or videos: all of them here, or each with `kept`, until it is picked."""

    grids: Tensor  # [K, 3] frames, height, width in patches
    patches: Tensor  # [P, channels of a patch]; none where they are kept elsewhere
    seconds: Tensor  # [K]
    kept: tuple[Kept, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.seconds) != len(self.grids):
            raise ValueError(f"{len(self.seconds)} entries of seconds for {len(self.grids)} grids")
        if self.kept is not None:
            if len(self.kept) != len(self.grids) or len(self.patches):
                raise ValueError(f"{len(self.kept)} kept images for {len(self.grids)} grids")
        elif len(self.patches) != int(self.grids.prod(1).sum()):
            raise ValueError(f"{len(self.patches)} patches, but the grids ask for {int(self.grids.prod(1).sum())}")

    def __reduce__(self) -> tuple[Any, ...]:
        columns = {"grids": self.grids, "patches": self.patches, "seconds": self.seconds}
        return _images_unpickled, (arrays(columns), self.kept)

    @staticmethod
    def none(channels: int = 0) -> "Images":
        """No image at all."""
        return Images(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, channels), torch.zeros(0))

    @staticmethod
    def concat(parts: Sequence["Images"]) -> "Images":
        """One after the other; kept elsewhere if any of them is."""
        grids, seconds = torch.cat([part.grids for part in parts]), torch.cat([part.seconds for part in parts])
        if all(part.kept is None for part in parts):
            return Images(grids, torch.cat([part.patches for part in parts]), seconds)
        kept = tuple(each for part in parts for each in (part.kept if part.kept is not None else _split(part)))
        return Images(grids, parts[0].patches[:0], seconds, kept)

    def __len__(self) -> int:
        return len(self.grids)

    @cached_property
    def sizes(self) -> list[int]:
        """Patches of each image."""
        found: list[int] = self.grids.prod(1).tolist()
        return found

    @cached_property
    def grid_list(self) -> list[tuple[int, int, int]]:
        """The grids as plain numbers."""
        return [(int(t), int(h), int(w)) for t, h, w in self.grids.tolist()]

    def pick(self, numbers: Sequence[int]) -> Tensor:
        """The patches of some images, in the order asked for."""
        if not numbers:
            return self.patches[:0]
        if self.kept is not None:
            return torch.cat([self.kept[number]() for number in numbers])
        pieces = torch.split(self.patches, self.sizes)
        return torch.cat([pieces[number] for number in numbers])


@dataclass(frozen=True)
class Here:
    """Patches that are kept in this process."""

    patches: Tensor

    def __call__(self) -> Tensor:
        return self.patches


def _split(images: Images) -> tuple[Kept, ...]:
    return tuple(Here(piece.clone()) for piece in torch.split(images.patches, images.sizes))


def _images_unpickled(columns: Any, kept: tuple[Kept, ...] | None) -> Images:
    return Images(**tensors(columns), kept=kept)


@dataclass(frozen=True)
class Batch:
    """Rows and their images; see the module for the invariants."""

    rows: Rows
    images: Images
    shown: Tensor
    counts: Tensor

    def __post_init__(self) -> None:
        if len(self.counts) != self.rows.num_rows:
            raise ValueError(f"{len(self.counts)} counts of images for {self.rows.num_rows} rows")
        if int(self.counts.sum()) != len(self.shown):
            raise ValueError(f"rows show {int(self.counts.sum())} images by their counts, {len(self.shown)} are named")

    def __reduce__(self) -> tuple[Any, ...]:
        columns = {"shown": self.shown, "counts": self.counts}
        return _batch_unpickled, (self.rows, self.images, arrays(columns))

    @staticmethod
    def of_text(rows: Rows) -> "Batch":
        """Rows that show nothing."""
        return Batch(
            rows, Images.none(), torch.zeros(0, dtype=torch.int64), torch.zeros(rows.num_rows, dtype=torch.int64)
        )

    @cached_property
    def _starts(self) -> list[int]:
        found: list[int] = (self.counts.cumsum(0) - self.counts).tolist()
        return found

    def shown_by(self, row: int) -> list[int]:
        """The numbers of the images of a row, in order."""
        start = self._starts[row]
        found: list[int] = self.shown[start : start + int(self.counts[row])].tolist()
        return found

    def select(self, index: Tensor) -> "Batch":
        """The rows of an index (or of a mask over rows); the images stay as they are, so their numbers do too."""
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index
        rows = self.rows.select(index)
        shown = [number for row in index.tolist() for number in self.shown_by(row)]
        return Batch(rows, self.images, torch.tensor(shown, dtype=torch.int64), self.counts[index])

    def pick(self, rows: Sequence[int]) -> "Batch":
        """The rows of plain numbers, in their order."""
        return self.select(torch.tensor(list(rows), dtype=torch.int64))

    def chunk(self, count: int) -> list["Batch"]:
        """So many pieces of rows that follow one another, whose sizes differ by one at most."""
        if count < 1:
            raise ValueError(f"{count} pieces")
        bounds = [number * self.rows.num_rows // count for number in range(count + 1)]
        return [self.pick(range(*pair)) for pair in pairwise(bounds)]

    def repeat(self, times: int, interleave: bool = True) -> "Batch":
        """Every row so often: behind itself, or with `interleave=False` all rows behind all rows."""
        if times < 0:
            raise ValueError(f"{times} times")
        every = range(self.rows.num_rows)
        order = [row for row in every for _ in range(times)] if interleave else [*every] * times
        return self.pick(order)

    def padded(self, divisor: int) -> tuple["Batch", int]:
        """With rows from the front again behind the last one, until there are a multiple of `divisor`; and how many.

        They are copies of which no token is `trained` and which are not `valid`, where rows have such columns.
        """
        if divisor < 1:
            raise ValueError(f"a multiple of {divisor}")
        have = self.rows.num_rows
        more = -have % divisor
        made = self.pick([*range(have), *(row % have for row in range(more))])
        own = torch.arange(have + more) < have
        rows = made.rows
        if "trained" in rows.tokens:
            rows = rows.with_tokens(trained=rows.tokens["trained"] & rows.per_token(own))
        if "valid" in rows.fields:
            rows = rows.with_fields(valid=rows.fields["valid"] & own)
        return made.with_rows(rows), more

    def unpadded(self, more: int) -> "Batch":
        """Without the last rows that `padded` added."""
        if not 0 <= more <= self.rows.num_rows:
            raise ValueError(f"{more} rows of padding, there are {self.rows.num_rows} rows")
        return self.pick(range(self.rows.num_rows - more))

    def union(self, other: "Batch") -> "Batch":
        """The columns of both, which must be the same rows, showing the same images where `other` has any."""
        for row in range(min(len(self.counts), len(other.counts) if len(other.images) else 0)):
            if self.shown_by(row) != other.shown_by(row):
                told = f"{self.shown_by(row)} here, {other.shown_by(row)} there"
                raise ValueError(f"{self.name(row)} shows the images {told}")
        return self.with_rows(self.rows.union(other.rows))

    def with_rows(self, rows: Rows) -> "Batch":
        """The same rows with other columns, and the same images."""
        return Batch(rows, self.images, self.shown, self.counts)

    @staticmethod
    def concat(parts: Sequence["Batch"]) -> "Batch":
        """One after the other; the images of each are counted on behind those before it."""
        first = torch.tensor([0, *(len(part.images) for part in parts)]).cumsum(0).tolist()
        return Batch(
            Rows.concat([part.rows for part in parts]),
            Images.concat([part.images for part in parts]),
            torch.cat([part.shown + start for part, start in zip(parts, first, strict=False)]),
            torch.cat([part.counts for part in parts]),
        )

    def name(self, row: int) -> str:
        """What a message calls a row."""
        return self.rows.name(row)


def _batch_unpickled(rows: Rows, images: Images, columns: Any) -> Batch:
    return Batch(rows, images, **tensors(columns))
