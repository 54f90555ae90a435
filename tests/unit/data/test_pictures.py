"""Sizes, patches and refusals of images. Not covered: whether the engine's resizing is the identity; that needs it."""

import io
import json
import random
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from hpt_megatron.data.pictures import (
    PictureRules,
    decode,
    grid,
    open_source,
    patches,
    show,
    shown_size,
    size_of,
    tokens,
)
from hpt_megatron.data.record import Source
from hpt_megatron.errors import UserError


@pytest.fixture(scope="module")
def processor(tiny):
    import torch  # noqa: F401  # before transformers, see Chat.open
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(str(tiny))


def noise(width, height, seed=0, mode="RGB"):
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


def encoded(image, kind="PNG", **options):
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


@pytest.mark.parametrize("size", [(28, 28), (56, 56), (84, 56), (56, 140), (224, 196)])
def test_patches_equal_the_processor_bit_for_bit(tiny, processor, size):
    rules, image = PictureRules.of_folder(tiny), noise(*size)
    theirs = processor(images=[image], return_tensors="np")
    assert theirs["image_grid_thw"].tolist() == [list(grid(*size, rules))]
    ours = patches(image, rules)
    assert ours.dtype == np.float32
    assert np.array_equal(ours, theirs["pixel_values"])


def test_an_image_of_its_shown_size_passes_the_processor_as_it_is(tiny, processor):
    """So an engine with the same processor sees our pixels, whatever the size of the original."""
    rules = PictureRules.of_folder(tiny)
    draw = random.Random(1)
    for _ in range(20):
        original = noise(draw.randint(1, 400), draw.randint(1, 400))
        shown = show(original, shown_size(*original.size, rules))
        theirs = processor(images=[shown], return_tensors="np")
        assert np.array_equal(patches(shown, rules), theirs["pixel_values"])


@pytest.mark.parametrize("limits", [(784, 50_176), (3136, 12_845_056), (200_704, 401_408)])
def test_the_shown_size_is_that_of_transformers_and_its_own_shown_size(limits):
    import torch  # noqa: F401
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    least, most = limits
    rules, draw = PictureRules(min_pixels=least, max_pixels=most), random.Random(0)
    sizes = [(w, h) for w in range(1, 200, 7) for h in range(1, 200, 9) if max(w, h) <= 200 * min(w, h)]
    sizes += [(draw.randint(1, 6000), draw.randint(30, 6000)) for _ in range(3000)]
    moved = 0
    for width, height in sizes:
        if max(width, height) > 200 * min(width, height):
            continue
        theirs = smart_resize(height, width, 28, least, most)[::-1]
        if smart_resize(*theirs[::-1], 28, least, most)[::-1] != theirs:
            moved += 1  # theirs would be resized once more by an engine
            continue
        assert shown_size(width, height, rules) == theirs
        assert shown_size(*theirs, rules) == theirs
    assert moved < len(sizes) / 100


def test_the_shown_size_is_a_fixed_point_also_where_that_of_transformers_is_not():
    rules = PictureRules(min_pixels=784, max_pixels=1568)
    for width in range(1, 900, 3):
        size = shown_size(width, 20, rules)
        assert shown_size(*size, rules) == size


@pytest.mark.parametrize(
    ("size", "shown", "count"),
    [((1024, 768), (1036, 756), 999), ((1654, 2339), None, 4956), ((56, 56), (56, 56), 4), ((84, 56), (84, 56), 6)],
)
def test_known_sizes_have_their_known_numbers_of_tokens(size, shown, count):
    rules = PictureRules()
    found = shown_size(*size, rules)
    assert shown in (None, found)
    assert tokens(grid(*found, rules), rules) == count


def test_limits_of_a_call_narrow_those_of_the_processor_and_never_widen_them():
    rules = PictureRules()
    assert shown_size(1024, 768, rules, 256 * 784, 512 * 784) == (728, 532)
    tiny = PictureRules(min_pixels=784, max_pixels=64 * 784)
    assert shown_size(1024, 768, tiny, 256, 512 * 784) == shown_size(1024, 768, tiny)
    with pytest.raises(UserError, match="no size has at least"):
        shown_size(10, 10, rules, min_pixels=100, max_pixels=50)


@pytest.mark.parametrize("size", [(1, 201), (4000, 10), (0, 5)])
def test_an_image_that_is_too_narrow_is_refused(size):
    with pytest.raises(UserError, match="narrower than 1 to 200"):
        shown_size(*size, PictureRules())


def test_both_spellings_of_the_file_give_the_same_rules(tmp_path, tiny):
    own = PictureRules.of_folder(tiny)
    assert (own.min_pixels, own.max_pixels) == (784, 64 * 784)
    table = json.loads((tiny / "preprocessor_config.json").read_text())
    table["size"] = {"shortest_edge": table.pop("min_pixels"), "longest_edge": table.pop("max_pixels")}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": table}))
    assert PictureRules.of_folder(tmp_path) == own
    assert PictureRules.of_folder(tmp_path).fingerprint == own.fingerprint != PictureRules().fingerprint


@pytest.mark.parametrize(
    ("table", "told"),
    [({"do_resize": False}, "do_resize is false"), ({"resample": 2}, "bicubic"), ({"patch_size": "x"}, "not an image")],
)
def test_a_processor_that_does_something_else_is_refused(tmp_path, table, told):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match=told):
        PictureRules.of_folder(tmp_path)


def test_a_folder_without_a_processor_says_so(tmp_path):
    with pytest.raises(UserError, match=r"holds no preprocessor_config\.json"):
        PictureRules.of_folder(tmp_path)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width, height):
    """A PNG of a few bytes that says it is huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 30_000, 2_000_000_000])
def test_a_bomb_is_refused_by_its_header(side):
    with pytest.raises(UserError, match=r"^row 3: has .*pixels, the limit is 50,000,000$"):
        decode(bomb(side, side), where="row 3")
    with pytest.raises(UserError, match="pixels, the limit is"):
        size_of(Source(data=bomb(side, side)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_one_line(kind):
    whole = encoded(noise(60, 40), kind)
    assert decode(whole).size == size_of(Source(data=whole)) == (60, 40)
    for length in (0, 3, 20, len(whole) // 2):
        with pytest.raises(UserError) as told:
            decode(whole[:length])
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4", b"\0" * 99])
def test_what_is_no_image_is_one_line(data):
    with pytest.raises(UserError, match=r"is not an image|is empty"):
        decode(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_bytes_after_a_true_header_never_raise_anything_else():
    draw = random.Random(5)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = bytearray(encoded(noise(40, 30), kind))
        for _ in range(60):
            broken = whole[:]
            for _ in range(draw.randint(1, 12)):
                broken[draw.randrange(8, len(broken))] = draw.randrange(256)
            with suppress(UserError):
                assert decode(bytes(broken), limit=10_000_000).mode == "RGB"


def test_transparent_is_white_and_every_mode_becomes_rgb():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert decode(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    assert decode(encoded(half)).getpixel((1, 1)) == (255, 0, 0)
    palette = Image.new("P", (4, 4), 0)
    assert decode(encoded(palette, "GIF", transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert decode(encoded(Image.new("LA", (4, 4), (0, 0)))).getpixel((0, 0)) == (255, 255, 255)
    assert decode(encoded(noise(4, 4, mode="CMYK"), "JPEG")).mode == "RGB"
    grey = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    assert decode(encoded(grey)).getpixel((0, 0)) == (156, 156, 156)


def test_the_rotation_of_a_camera_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    whole = encoded(noise(60, 40), "JPEG", exif=exif)
    assert decode(whole).size == size_of(Source(data=whole)) == (40, 60)


def test_the_size_of_a_png_is_told_without_decoding_it_and_is_that_of_the_decoded_one(monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    before = encoded(noise(60, 40), "PNG", exif=exif)
    plain = encoded(noise(60, 40), "PNG")
    behind = plain[:-12] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + plain[-12:]
    sizes = [decode(whole).size for whole in (before, plain, behind)]
    assert sizes == [(40, 60), (60, 40), (60, 40)]
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: pytest.fail("pixels were decoded"))
    assert [size_of(Source(data=whole)) for whole in (before, plain, behind)] == sizes
    with pytest.raises(UserError, match="has 60 x 40 pixels, the limit is 100"):
        size_of(Source(data=plain), limit=100)


def test_of_an_animation_the_first_frame_counts():
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    assert decode(encoded(red, "GIF", save_all=True, append_images=[blue])).getpixel((0, 0)) == (255, 0, 0)


def test_a_source_reads_bytes_or_a_file_and_names_what_is_wrong(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise(5, 6)))
    assert size_of(Source(path=str(path))) == (5, 6)
    assert open_source(Source(path=str(path))).size == open_source(Source(data=path.read_bytes())).size == (5, 6)
    for wrong, told in ((tmp_path / "no.png", "no such file"), (tmp_path, "is not a file"), ("a\0b", "no such file")):
        with pytest.raises(UserError, match=told):
            open_source(Source(path=str(wrong)))
    with pytest.raises(ValueError, match="one of them"):
        Source()
