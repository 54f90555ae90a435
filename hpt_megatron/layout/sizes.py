"""What a pack plan is made from: the sizes of rows and images, and what a pack may hold.

Invariants
    1. A row takes its length, padded to `divisor`. A pack takes the slots of its rows, padded to `total_divisor` and
       to `divisor`, because the padding at its tail is cut like a row. An empty pack is one such step of padding.
    2. `capacity` is the most that the rows of a pack may take, so that the padded pack stays within `max_tokens`.

Example:
    >>> limits = PackLimits(max_tokens=100, dp=2, multiple=1, divisor=4, total_divisor=8)
    >>> limits.row_slots(9), limits.pack_slots(12), limits.pack_slots(0), limits.capacity
    (12, 16, 8, 96)
"""

import math
from dataclasses import dataclass

from hpt_megatron.errors import UserError

LOGITS_CHUNK = 1024
"""Tokens whose logits exist at a time."""
GRADIENT_BUCKET = 40_000_000
"""Parameters whose gradients travel together, where reduction overlaps with backward."""


@dataclass(frozen=True)
class RowSize:
    """A row: its tokens, its cost without the images, and which images it shows, as places in their list."""

    length: int
    cost: float
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class ImageSize:
    """An image: what the vision tower reads of it, and what that costs. Rows that share it share the cost."""

    patches: int
    cost: float


@dataclass(frozen=True, kw_only=True)
class PackLimits:
    """What a pack may hold, and how many there must be."""

    max_tokens: int
    dp: int
    multiple: int = 1  # packs of a rank are a multiple of it: pp when the pipeline is interleaved
    divisor: int = 1  # of every row: 2 x cp when cp > 1
    total_divisor: int = 1  # of the pack as a whole
    max_patches: int | None = None  # None: as many as the rows bring

    def __post_init__(self) -> None:
        for name in ("max_tokens", "dp", "multiple", "divisor", "total_divisor", "max_patches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"a pack plan with {name} {value} holds nothing", mend="1 or more")
        if self.capacity < 1:
            raise UserError(
                f"a pack of at most {self.max_tokens} tokens has no room for one step of {self.step}",
                mend=f"max_tokens of {self.step} or more",
            )

    @property
    def step(self) -> int:
        """What the length of a pack is a multiple of."""
        return math.lcm(self.divisor, self.total_divisor)

    @property
    def capacity(self) -> int:
        """Slots of a full pack."""
        return self.max_tokens // self.step * self.step

    @property
    def together(self) -> int:
        """What the number of all packs is a multiple of."""
        return self.dp * self.multiple

    def row_slots(self, length: int) -> int:
        """What a row of so many tokens takes."""
        return -(-length // self.divisor) * self.divisor

    def pack_slots(self, slots: int) -> int:
        """What a pack takes whose rows take so many slots."""
        return max(-(-slots // self.step), 1) * self.step


def divisors(tp: int, cp: int) -> tuple[int, int]:
    """What the length of a sequence and of a whole pack must be a multiple of."""
    each = 2 * cp if cp > 1 else 1
    return each, math.lcm(each, cp * tp)
