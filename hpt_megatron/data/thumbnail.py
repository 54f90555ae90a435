"""A small picture of an image, as an address that holds all of it, for pages of ours.

Invariant: an image is drawn again from its pixels, so no byte of a file gets through.
"""

import base64
import io
from dataclasses import dataclass

from hpt_megatron.data.pictures import open_source
from hpt_megatron.data.record import Source


@dataclass(frozen=True)
class Thumbnail:
    """`size` is that of the image itself."""

    address: str
    size: tuple[int, int]


def thumbnail(source: Source, side: int) -> Thumbnail:
    """At most `side` pixels wide and high; raises where the image is broken."""
    image = open_source(source)
    size = image.size
    image.thumbnail((side, side))
    held = io.BytesIO()
    image.save(held, "PNG")
    return Thumbnail(f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}", size)
