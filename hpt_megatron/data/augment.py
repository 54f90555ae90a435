"""Changes of images that keep what is said about them true.

    brightness   0.8 to 1.25 times as bright
    jitter       contrast and colour 0.9 to 1.1 times as strong
    crop_pad     white margins of up to 8 % a side, then back to the size it had; nothing is cut off

Boxes move with the picture: `<bbox>[x1,y1,x2,y2]</bbox>` in a target is about the image shown last before it, in the
frame in which the model sees that image. Sizes stay, so the number of visual tokens does too.

Invariants
    1. The same record and seed give the same images.
    2. A box that holds a pixel before holds it after, up to the rounding of its sides outwards.
    3. Without a name in `kinds` the record is returned as it is.

Example:
    >>> Move(left=0.0, top=0.0, right=1.0, bottom=0.0).box((0, 0, 56, 56), (56, 56))
    (0, 0, 28, 56)
"""

import io
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageEnhance, ImageOps

from hpt_megatron.data.pictures import MOST_PIXELS, open_source
from hpt_megatron.data.record import Message, Record, Source

MOST_MARGIN = 0.08
BOX = re.compile(r"(<bbox>\s*)(\[[^\[\]<>]{1,200}\])(\s*</bbox>)")

Box = tuple[int, int, int, int]
Size = tuple[int, int]


@dataclass(frozen=True)
class Move:
    """Margins that were added, as shares of the sides."""

    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0

    def box(self, box: Sequence[float], size: Size) -> Box:
        """The box in the new picture, in whole pixels of the frame."""
        wide, high = size
        x1, y1, x2, y2 = box
        across, down = 1 + self.left + self.right, 1 + self.top + self.bottom
        moved: tuple[float, ...] = ((x1 + self.left * wide) / across, (y1 + self.top * high) / down)
        moved += ((x2 + self.left * wide) / across, (y2 + self.top * high) / down)
        start = [max(0, math.floor(value + 1e-9)) for value in moved[:2]]
        end = [min(most, math.ceil(value - 1e-9)) for value, most in zip(moved[2:], size, strict=True)]
        return start[0], start[1], end[0], end[1]


def altered(image: Image.Image, kinds: Sequence[str], chance: random.Random) -> tuple[Image.Image, Move]:
    """The image after all changes, of the size it had, and how it moved."""
    move = Move()
    if "brightness" in kinds:
        image = ImageEnhance.Brightness(image).enhance(0.8 * 1.5625 ** chance.random())
    if "jitter" in kinds:
        image = ImageEnhance.Contrast(image).enhance(chance.uniform(0.9, 1.1))
        image = ImageEnhance.Color(image).enhance(chance.uniform(0.9, 1.1))
    if "crop_pad" in kinds:
        wide, high = image.size
        pixels = [round(chance.uniform(0, MOST_MARGIN) * side) for side in (wide, high, wide, high)]
        padded = ImageOps.expand(image, (pixels[0], pixels[1], pixels[2], pixels[3]), "white")
        image = padded.resize((wide, high), Image.Resampling.BICUBIC)
        move = Move(pixels[0] / wide, pixels[1] / high, pixels[2] / wide, pixels[3] / high)
    return image, move


def augmented(
    record: Record, kinds: Sequence[str], seed: str, shown: Callable[[int, int], Size], limit: int = MOST_PIXELS
) -> Record:
    """A record whose images are changed and whose boxes moved along; `shown`: the frame of an image of some size."""
    if not kinds or not record.images:
        return record
    chance = random.Random(f"{seed}/{record.index}")
    images, frames = [], []
    for source in record.images:
        image = open_source(source, limit)
        changed, move = altered(image, kinds, chance)
        images.append(_png(changed))
        frames.append((move, shown(*image.size)))
    target, seen = [], frames[-1]
    for message in record.target or ():
        if message.num_images:  # what comes later is another picture, which is not changed
            seen = (Move(), (0, 0))
        content = (
            _moved(message.content, *seen) if message.role == "assistant" and seen[1] != (0, 0) else message.content
        )
        target.append(Message(message.role, content))
    return replace(record, images=tuple(images), target=tuple(target) or None)


def _moved(text: str, move: Move, size: Size) -> str:
    def again(found: re.Match[str]) -> str:
        try:
            box = [float(value) for value in json.loads(found[2])]
        except (ValueError, TypeError):
            return found[0]
        if len(box) != 4 or not all(map(math.isfinite, box)):
            return found[0]
        return f"{found[1]}{json.dumps(move.box(box, size), separators=(',', ':'))}{found[3]}"

    return BOX.sub(again, text)


def _png(image: Image.Image) -> Source:
    held = io.BytesIO()
    image.save(held, "PNG", compress_level=1)
    return Source(data=held.getvalue())
