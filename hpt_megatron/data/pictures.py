"""From the bytes of an image to the patches of the vision tower, and the size at which a model sees it.

Decision: we resize, once, with PIL's bicubic filter. The engine runs its own processor on what it is given; it is given
an image of exactly the shown size, so its resizing does nothing, and trainer and engine see the same pixels.

    bytes -> decode -> RGB image -> show(shown_size) -> patches -> [P, 3 * 2 * 14 * 14], 4 rows for each visual token

Invariants
    1. The header is read first: an image of too many pixels is refused before any of them is decoded, and for a size
       alone none is. A rotation counts where the header says it; what a PNG says behind its pixels does not.
    2. `shown_size` is transformers' `smart_resize`, applied until it changes nothing: the shown size is its own shown
       size, under the processor's limits too. Limits given at a call only narrow those.
    3. `patches` equals the processor on torchvision bit for bit.
    4. Transparent pixels are white, as on paper; a camera's rotation is applied; an animation is its first frame.

Example:
    >>> rules = PictureRules()
    >>> shown_size(1024, 768, rules), tokens(grid(1036, 756, rules), rules)
    ((1036, 756), 999)
"""

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from hpt_megatron.data.record import Source
from hpt_megatron.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MOST_PIXELS = 50_000_000  # a page of A4 at 600 dpi has 35 million
STEEPEST = 200  # the longer side over the shorter one
BICUBIC = 3
BLIND = 0  # `max_pixels` of a model without a vision tower
FILES = ("preprocessor_config.json", "processor_config.json")

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class PictureRules:
    """What a checkpoint's image processor does, in its own words; defaults are Qwen2.5-VL's."""

    patch: int = 14
    merge: int = 2
    temporal: int = 2
    min_pixels: int = 3136
    max_pixels: int = 12_845_056
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    rescale: float = 1 / 255

    @property
    def factor(self) -> int:
        """Pixels along the side of a visual token."""
        return self.patch * self.merge

    @property
    def fingerprint(self) -> str:
        """Equal on both sides of a run, or they do not see the same image."""
        told = json.dumps({"filter": "PIL bicubic", **asdict(self)}, sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @classmethod
    def of_folder(cls, folder: str | Path) -> "PictureRules":
        """As the processor's file in a checkpoint's folder says."""
        for name in FILES:
            path = Path(folder) / name
            if path.is_file():
                try:
                    table = json.loads(path.read_text(encoding="utf-8"))
                    return cls.of_table(table.get("image_processor", table))
                except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                    raise UserError(f"is not an image processor's file: {error}", where=str(path)) from error
        if _is_text_model(Path(folder)):
            return cls(max_pixels=BLIND)
        raise UserError(f"holds no {FILES[0]}", where=str(folder), mend="give the folder of a checkpoint")

    @classmethod
    def of_table(cls, table: Mapping[str, Any]) -> "PictureRules":
        """From the content of that file; sizes in either spelling."""
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if table.get(step) is False:
                raise UserError(f"{step} is false", where=FILES[0], mend="only processors that do all three are known")
        if table.get("resample", BICUBIC) != BICUBIC:
            raise UserError("resamples otherwise than bicubic", where=FILES[0], mend=f"set resample to {BICUBIC}")
        own, size = cls(), table.get("size") or {}
        least = table.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels") or own.min_pixels
        most = table.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels") or own.max_pixels
        return cls(
            patch=int(table.get("patch_size", own.patch)),
            merge=int(table.get("merge_size", own.merge)),
            temporal=int(table.get("temporal_patch_size", own.temporal)),
            min_pixels=int(least),
            max_pixels=int(most),
            mean=tuple(map(float, table.get("image_mean", own.mean))),
            std=tuple(map(float, table.get("image_std", own.std))),
            rescale=float(table.get("rescale_factor", own.rescale)),
        )


def _is_text_model(folder: Path) -> bool:
    """Whether a checkpoint says what it is, and has no vision tower; it brings no image processor either."""
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return isinstance(told, dict) and "model_type" in told and "vision_config" not in told
    except (OSError, ValueError, RecursionError):
        return False


def decode(data: bytes, limit: int = MOST_PIXELS, where: str = "an image") -> Image.Image:
    """The RGB image of some bytes; whatever is wrong with them is one line that starts with `where`."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > limit:
                raise UserError(f"has {width} x {height} pixels, the limit is {limit:,}", where=where)
            _orientation(image)  # PIL keeps what it found first, so this and `size_of` agree
            image.load()
            return _upright_rgb(image)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"has too many pixels, the limit is {limit:,}", where=where) from error
    except UnidentifiedImageError as error:
        what = "is empty" if not data else f"is not an image ({', '.join(FORMATS)})"
        raise UserError(what, where=where) from error
    except MemoryError as error:
        raise UserError("does not fit into memory", where=where) from error
    except Exception as error:  # decoders raise whatever they like: struct.error, SyntaxError, zlib.error, ...
        raise UserError(f"cannot be decoded: {str(error) or type(error).__name__}", where=where) from error


def open_source(source: Source, limit: int = MOST_PIXELS) -> Image.Image:
    """The RGB image of a source."""
    return decode(source.read(), limit, source.name)


def size_of(source: Source, limit: int = MOST_PIXELS) -> tuple[int, int]:
    """Width and height as `decode` gives them, from the header alone: a file is not read beyond it."""
    opened: Any = io.BytesIO(source.data) if source.data is not None else source.path
    try:
        with Image.open(opened, formats=FORMATS) as image:
            width, height = image.size
            turned = width * height <= limit and _orientation(image) in (5, 6, 7, 8)
    except Exception:  # decode finds the words
        return open_source(source, limit).size
    if width * height > limit:
        raise UserError(f"has {width} x {height} pixels, the limit is {limit:,}", where=source.name)
    return (height, width) if turned else (width, height)


def _orientation(image: Image.Image) -> Any:
    """As the header says. A PNG's own `getexif` would decode all of it to look behind its pixels."""
    return Image.Image.getexif(image).get(0x0112)


def _upright_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image) or image
    if upright.mode.startswith("I"):  # 16 bits of grey: PIL's own conversion would clip them to white
        grey = np.asarray(upright).astype(np.int64) >> 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
        seen = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return upright.convert("RGB")


def shown_size(
    width: int, height: int, rules: PictureRules, min_pixels: int | None = None, max_pixels: int | None = None
) -> tuple[int, int]:
    """Width and height at which the model sees an image; limits given here only narrow the processor's."""
    if rules.max_pixels == BLIND:
        raise UserError("the model sees none", where="an image", mend="rows without images, or a Qwen2.5-VL checkpoint")
    least, most = max(rules.min_pixels, min_pixels or 0), min(rules.max_pixels, max_pixels or rules.max_pixels)
    if least > most:
        raise UserError(f"no size has at least {least} and at most {most} pixels", where="min_pixels and max_pixels")
    if min(width, height) < 1 or max(width, height) / min(width, height) > STEEPEST:
        raise UserError(f"{width} x {height} is narrower than 1 to {STEEPEST}", where="an image", mend="crop or pad it")
    size = (width, height)
    for _ in range(8):
        following = _resized(*size, rules.factor, least, most)
        if following == size:
            return size
        size = following
    raise UserError(f"{width} x {height} has no size within {least} to {most} pixels", where="an image")


def _resized(width: int, height: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """transformers' smart_resize, with width first; round() is to even, there as here."""
    w, h = round(width / factor) * factor, round(height / factor) * factor
    if h * w > most:
        beta = math.sqrt((height * width) / most)
        h = max(factor, math.floor(height / beta / factor) * factor)
        w = max(factor, math.floor(width / beta / factor) * factor)
    elif h * w < least:
        beta = math.sqrt(least / (height * width))
        h, w = math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
    return w, h


def show(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at exactly this size; the only place that resizes for a model."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def grid(width: int, height: int, rules: PictureRules) -> Grid:
    """Patches along time, height and width of an image of a shown size."""
    if width % rules.factor or height % rules.factor:
        raise ValueError(f"{width} x {height} is not a shown size: sides are multiples of {rules.factor}")
    return 1, height // rules.patch, width // rules.patch


def tokens(grid: Grid, rules: PictureRules) -> int:
    """Visual tokens of a grid of patches."""
    return grid[0] * grid[1] * grid[2] // rules.merge**2


def patches(image: Image.Image, rules: PictureRules) -> NDArray[np.float32]:
    """[P, 3 * temporal * patch * patch] of an RGB image of a shown size: four rows in turn make one visual token."""
    _, high, wide = grid(*image.size, rules)
    m, p, table = rules.merge, rules.patch, _normalised(rules)
    # Moved while they are bytes, then looked up: a quarter of the memory goes through the caches.
    pixels = np.asarray(image, dtype=np.uint8).reshape(high // m, m, p, wide // m, m, p, 3)
    cells = pixels.transpose(0, 3, 1, 4, 6, 2, 5).reshape(high * wide, 3, p * p)
    found = np.empty((high * wide, 3, rules.temporal, p * p), np.float32)
    for channel in range(3):
        found[:, channel] = table[channel][cells[:, channel]][:, None]
    return found.reshape(high * wide, 3 * rules.temporal * p * p)


def _normalised(rules: PictureRules) -> NDArray[np.float32]:
    """[3, 256]: what each value of each channel becomes, in the arithmetic and precision of the processor."""
    values = np.arange(256, dtype=np.float32)
    scale = np.float32(1.0 / rules.rescale)
    mean, std = np.array(rules.mean, np.float32) * scale, np.array(rules.std, np.float32) * scale
    found: NDArray[np.float32] = (values[None] - mean[:, None]) / std[:, None]
    return found
