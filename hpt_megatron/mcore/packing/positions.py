"""Positions of a row's tokens: one dimension for text, three (time, height, width) around images and videos.

    text            (p, p, p) and p + 1 for the next
    a picture of    (p, p + row, p + column) over its merged grid; a video adds floor(frame * seconds * tokens per
    frames          second) to the first. What follows starts at the largest position so far + 1

That last rule is the engine's and the one the model was trained with; transformers 5.19 goes on at
max(height, width) instead, which differs for a video with more seconds than rows. Positions are computed from the whole
row: they cannot be patched when images come later.

Example:
    the row  text image image text  with one image of 2 x 4 patches, so 1 x 2 merged tokens, has the positions
    time 0 1 1 3    height 0 1 1 3    width 0 1 2 3
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpt_megatron.config.model import ModelConfig, VisionConfig
from hpt_megatron.layout.cost import Grid


@dataclass(frozen=True)
class Placeholders:
    """The token ids that stand for pieces of images and videos, and the sizes their positions follow from."""

    image: int
    video: int
    vision: VisionConfig

    @classmethod
    def of(cls, model: ModelConfig) -> "Placeholders | None":
        """As the model's configuration says; None without a vision tower."""
        if model.vision is None or model.image_token_id is None or model.video_token_id is None:
            return None
        return cls(model.image_token_id, model.video_token_id, model.vision)

    @property
    def merge(self) -> int:
        """Patches along each side of a merged token."""
        return self.vision.spatial_merge_size

    def tokens(self, grid: Grid) -> int:
        """Merged tokens of a grid of patches."""
        frames, height, width = grid
        return frames * (height // self.merge) * (width // self.merge)

    def merges(self, grid: Grid) -> bool:
        """Whether a grid of patches is one of whole merged tokens."""
        return min(grid) > 0 and grid[1] % self.merge == 0 and grid[2] % self.merge == 0

    def marks(self, ids: Tensor) -> Tensor:
        """Where a row has a piece of an image or of a video."""
        return (ids == self.image) | (ids == self.video)


def row_positions(ids: Tensor, grids: Sequence[Grid], seconds: Sequence[float], holders: Placeholders | None) -> Tensor:
    """[3, L] of one row, whose pictures are given in order with the seconds between their frames (0: a still image).

    The row must have as many placeholders as its grids say; `problems.py:problems_of` looks first.
    """
    length = len(ids)
    if holders is None or not len(grids):
        return torch.arange(length).expand(3, length)
    marks = holders.marks(ids).nonzero()[:, 0].tolist()
    parts: list[Tensor] = []
    at, used, following = 0, 0, 0
    for grid, between in zip(grids, seconds, strict=True):
        first, tokens = marks[used], holders.tokens(grid)
        if first > at:
            parts.append(torch.arange(following, following + first - at).expand(3, -1))
            following += first - at
        picture = _grid_positions(grid, between, holders) + following
        parts.append(picture)
        following = int(picture.max()) + 1
        at, used = first + tokens, used + tokens
    if at < length:
        parts.append(torch.arange(following, following + length - at).expand(3, -1))
    return torch.cat(parts, 1)


def _grid_positions(grid: Grid, seconds: float, holders: Placeholders) -> Tensor:
    frames, height, width = grid[0], grid[1] // holders.merge, grid[2] // holders.merge
    apart = seconds * holders.vision.tokens_per_second if seconds else 1.0
    time = (torch.arange(frames, dtype=torch.float64) * apart).long()  # in float32, 5 * 1.39999998 would be 7
    axes = torch.meshgrid(time, torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack(axes).flatten(1)
