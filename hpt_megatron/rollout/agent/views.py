"""Images as the model sees them, and which part of which page each of them is.

    page pixels --region--> cut --resize--> shown pixels (a grid of patches)      a box of the model is in shown pixels

Decision: a view keeps its own region of the page. A box is mapped from the shown frame to the page, and the new view is
cut from the page at full resolution. So a crop of a crop composes and loses nothing, and no scale of one image is ever
applied to another.

Invariants
    1. The shown frame is the grid times the size of a patch: what the model sees, not what a resize was asked for.
    2. A region lies within its page, in whole pixels, at least `LEAST` on a side where the page has them, and its sides
       are within 1 to `STEEPEST`.
    3. The same padding around a box in training and in validation: it is one setting.

Example:
    >>> view = View("deck/1", (0, 0, 224, 224), (224, 224), (1, 4, 4), None)
    >>> region_of(view, (0, 28, 28, 56), CropRules())
    (0, 112, 112, 224)
"""

import json
import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from hpt_megatron.data.pictures import MOST_PIXELS, Grid, PictureRules, grid, open_source, show, shown_size, tokens
from hpt_megatron.data.record import Source
from hpt_megatron.errors import UserError

LEAST = 28
STEEPEST = 100  # the processor itself refuses 200
DECODED_PAGES = 8  # kept whole, since a page is often cropped right after it was shown

Region = tuple[int, int, int, int]
Box = tuple[float, float, float, float]


class BadBoxError(Exception):
    """A box that shows nothing; its text is one word."""


@dataclass(frozen=True)
class CropRules:
    """`pad`: page pixels added around a box. `repair`: corners in the wrong order are swapped instead of refused."""

    pad: int = 0
    repair: bool = True


@dataclass(frozen=True)
class View:
    """One image as it was shown. `page` is its canonical id; an image of the prompt has none."""

    page: str
    region: Region
    page_size: tuple[int, int]
    grid: Grid
    source: Source | None = field(compare=False, repr=False)
    image: Any = field(default=None, compare=False, repr=False)  # PIL, of exactly the shown size
    patch: int = 14
    merge: int = 2

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height that the model sees."""
        return self.grid[2] * self.patch, self.grid[1] * self.patch

    @property
    def tokens(self) -> int:
        """Visual tokens."""
        return self.grid[0] * self.grid[1] * self.grid[2] // self.merge**2

    @property
    def whole(self) -> bool:
        """Whether it shows all of its page."""
        return self.region == (0, 0, *self.page_size)


def box_of(body: str) -> Box:
    """The four numbers of a box's text, which `turns.py:can_be_done` has accepted."""
    left, top, right, bottom = map(float, json.loads(body))
    return left, top, right, bottom


def region_of(view: View, box: Box, rules: CropRules) -> Region:
    """The part of the page that a box of a view means."""
    (x0, y0, x1, y1), (wide, high) = view.region, view.shown
    across, down = (x1 - x0) / wide, (y1 - y0) / high
    left, top, right, bottom = box
    if (left > right or top > bottom) and not rules.repair:
        raise BadBoxError("swapped")
    left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
    width, height = view.page_size
    horizontal = _side(x0 + left * across, x0 + right * across, rules.pad, width)
    vertical = _side(y0 + top * down, y0 + bottom * down, rules.pad, height)
    longest = max(horizontal[1] - horizontal[0], vertical[1] - vertical[0])
    least = max(LEAST, math.ceil(longest / STEEPEST))
    horizontal, vertical = _grown(horizontal, least, width), _grown(vertical, least, height)
    sides = (horizontal[1] - horizontal[0], vertical[1] - vertical[0])
    if max(sides) > STEEPEST * min(sides):
        raise BadBoxError("narrow")
    return horizontal[0], vertical[0], horizontal[1], vertical[1]


def shown_box(view: View, part: Region) -> Region:
    """The way back, for demonstrations: a part of the page in the pixels of a view, where it lies within what it shows.

    >>> shown_box(View("deck/1", (0, 0, 224, 224), (224, 224), (1, 4, 4), None), (0, 112, 112, 224))
    (0, 28, 28, 55)
    """
    (x0, y0, x1, y1), (wide, high) = view.region, view.shown
    across, down = wide / (x1 - x0), high / (y1 - y0)
    left, right = ((x - x0) * across for x in (part[0], part[2]))
    top, bottom = ((y - y0) * down for y in (part[1], part[3]))
    return _within(left, wide), _within(top, high), _within(right, wide), _within(bottom, high)


def _within(place: float, size: int) -> int:
    return min(max(round(place), 0), size - 1)


def _side(start: float, stop: float, pad: int, size: int) -> tuple[int, int]:
    """Whole pixels around an interval, within the page."""
    start, stop = max(start - pad, 0.0), min(stop + pad, float(size))
    # A box that was mapped through a scale may miss a whole pixel by a rounding error; it is that pixel.
    found = (math.floor(start + 1e-6), math.ceil(stop - 1e-6))
    if stop <= start or found[1] <= found[0]:
        raise BadBoxError("empty")
    return found


def _grown(side: tuple[int, int], least: int, size: int) -> tuple[int, int]:
    """At least so long, around the same centre, moved back into the page."""
    start, stop = side
    if stop - start >= least:
        return side
    least = min(least, size)
    start = min(max((start + stop - least) // 2, 0), size - least)
    return start, start + least


@dataclass(frozen=True)
class Viewer:
    """Makes views: the only place where the agent decodes and cuts."""

    rules: PictureRules = field(default_factory=PictureRules)
    min_pixels: int | None = None
    max_pixels: int | None = None
    crop: CropRules = field(default_factory=CropRules)
    pixel_limit: int = MOST_PIXELS

    def view(self, page: str, source: Source) -> View:
        """A whole page, or an image of a prompt."""
        image = _page(source, self.pixel_limit)
        return self._cut(View(page, (0, 0, *image.size), image.size, (1, 0, 0), source), (0, 0, *image.size))

    def zoom(self, view: View, box: Box) -> View:
        """A part of what a view shows, from the page at full resolution."""
        return self._cut(view, region_of(view, box, self.crop))

    def _cut(self, view: View, region: Region) -> View:
        if view.source is None:
            raise BadBoxError("no source")
        image = _page(view.source, self.pixel_limit)
        size = shown_size(region[2] - region[0], region[3] - region[1], self.rules, self.min_pixels, self.max_pixels)
        cut = image if region == (0, 0, *image.size) else image.crop(region)
        made = grid(*size, self.rules)
        rules = self.rules
        found = View(view.page, region, image.size, made, view.source, show(cut, size), rules.patch, rules.merge)
        if found.tokens != tokens(made, rules):
            raise UserError(f"a grid of {made} cannot be merged", where="an image")
        return found


@lru_cache(maxsize=DECODED_PAGES)
def _page(source: Source, limit: int) -> Any:
    return open_source(source, limit)
