"""What the embedded tasks show: dots, digits of seven bars, textures. Arrays of uint8, height by width by three.

Invariants
    1. The same random numbers give the same pixels, and PNG bytes, in any process.
    2. Sides are multiples of 28, the side of a visual token, so that nothing is resized on the way to a model.
"""

import io
import random
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hpt_megatron.data.record import Source

Pixels = NDArray[np.uint8]
CELL = 28
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (30, 60, 220),
    "yellow": (240, 220, 40),
    "orange": (240, 140, 20),
    "purple": (130, 40, 160),
    "black": (10, 10, 10),
    "gray": (128, 128, 128),
}
# The bars of each digit: top, upper left, upper right, middle, lower left, lower right, bottom.
BARS = ("1110111", "0010010", "1011101", "1011011", "0111010", "1101011", "1101111", "1010010", "1111111", "1111011")
TEXTURES = ("rows", "columns", "checks", "slants")
GREY, STRENGTH, FADE = 128, 120, 32  # of a texture: its mean, its contrast, pixels until it is reached
STRIPE = 2  # pixels: gone where four pixels become one, there where two do


def blank(width: int, height: int, shade: int = 255) -> Pixels:
    """An empty picture."""
    return np.full((height, width, 3), shade, np.uint8)


def source(pixels: Pixels) -> Source:
    """The picture as PNG."""
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return Source(data=held.getvalue())


def noisy(pixels: Pixels, chance: random.Random, most: int = 12) -> Pixels:
    """With a little grain, so that no two pictures are equal."""
    grain = np.random.default_rng(chance.getrandbits(32)).integers(-most, most + 1, pixels.shape)
    return np.clip(pixels.astype(np.int16) + grain, 0, 255).astype(np.uint8)


def dots(places: list[int], chance: random.Random) -> Pixels:
    """A 56 x 56 picture with a dot in each of these of its 16 cells, row by row."""
    pixels = blank(56, 56)
    for place in places:
        top, left = 14 * (place // 4) + chance.randint(2, 6), 14 * (place % 4) + chance.randint(2, 6)
        pixels[top : top + 6, left : left + 6] = 20
    return noisy(pixels, chance)


def cells(colours: list[str], chance: random.Random) -> Pixels:
    """A 56 x 56 picture of four coloured cells, row by row; each lies within one visual token."""
    pixels = blank(2 * CELL, 2 * CELL)
    for number, name in enumerate(colours):
        top, left = CELL * (number // 2), CELL * (number % 2)
        pixels[top + 4 : top + 24, left + 4 : left + 24] = COLOURS[name]
    return noisy(pixels, chance)


def digit(pixels: Pixels, value: int, left: int, top: int, thick: int = 4) -> None:
    """Draws a digit 18 wide and 34 high into a picture."""
    wide, half = 18, 15 + thick // 2
    flat = ((0, 0), (0, half), (0, 2 * half))
    tall = ((0, 0), (wide - thick, 0), (0, half), (wide - thick, half))
    top_bar, upper_left, upper_right, middle, lower_left, lower_right, bottom = (bar == "1" for bar in BARS[value])
    for (x, y), drawn in zip(flat, (top_bar, middle, bottom), strict=True):
        if drawn:
            pixels[top + y : top + y + thick, left + x : left + x + wide] = 20
    for (x, y), drawn in zip(tall, (upper_left, upper_right, lower_left, lower_right), strict=True):
        if drawn:
            pixels[top + y : top + y + half + thick, left + x : left + x + thick] = 20


def digits(values: list[int], chance: random.Random, arrow: bool = False) -> Pixels:
    """Digits side by side in a picture 56 high, each within its own 28 columns: one visual token above, one below.

    Without an arrow before them, two digits have an empty token between them; one has an empty one behind it.
    """
    pixels = blank(CELL * (3 if len(values) > 1 else 2), 56)
    if arrow:
        middle = 28 + chance.randint(-1, 1)
        pixels[middle - 2 : middle + 2, 4 : CELL - 6] = 20
        for step in range(7):
            pixels[middle - 7 + step : middle + 7 - step, CELL - 10 + step] = 20
    columns = range(1, 3) if arrow else range(0, 3, 2)
    for column, value in zip(columns, values, strict=False):
        digit(pixels, value, CELL * column + 5 + chance.randint(-2, 2), 11 + chance.randint(-2, 2))
    return noisy(pixels, chance)


@cache
def texture(kind: str, side: int) -> Pixels:
    """A square of stripes that fade out towards its sides; all kinds are of the same grey from afar, edges too."""
    y, x = np.mgrid[0:side, 0:side] // STRIPE
    wave = {"rows": y, "columns": x, "checks": x + y, "slants": (np.add(*np.mgrid[0:side, 0:side]) // STRIPE)}[kind]
    slope = np.clip((np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5) / FADE, 0, 1)
    fade = np.sin(slope * np.pi / 2) ** 2
    grey = (GREY + np.where(wave % 2 == 0, -STRENGTH, STRENGTH) * fade[:, None] * fade[None]).round().astype(np.uint8)
    found: Pixels = np.repeat(grey[..., None], 3, axis=2)
    return found


def quarters(kinds: list[str], marked: int, colour: tuple[int, int, int]) -> Pixels:
    """A 224 x 224 page of four textures, row by row; one of them has a coloured border."""
    pixels = blank(224, 224, GREY)
    for number, kind in enumerate(kinds):
        top, left = 112 * (number // 2), 112 * (number % 2)
        if number == marked:
            pixels[top : top + 112, left : left + 112] = colour
            pixels[top + 8 : top + 104, left + 8 : left + 104] = GREY
        pixels[top + 16 : top + 96, left + 16 : left + 96] = texture(kind, 80)
    return pixels
