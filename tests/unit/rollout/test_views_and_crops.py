"""Boxes of the model become parts of pages, also of parts of pages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lookup_world import pixels
from PIL import Image

from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.rollout.agent.views import BadBoxError, CropRules, View, Viewer, box_of, region_of, shown_box

pytestmark = pytest.mark.fast
SIZES = st.integers(56, 2000)
SHARES = st.tuples(*[st.floats(0, 1) for _ in range(4)])


def seen(region=(0, 0, 224, 224), page=(224, 224), grid=(1, 4, 4)):
    return View("deck/1", region, page, grid, None)


def box_in(view, shares):
    wide, high = view.shown
    return shares[0] * wide, shares[1] * high, shares[2] * wide, shares[3] * high


def plain(region, shown, box):
    """The same map, by hand: without rounding and limits."""
    (x0, y0, x1, y1), (wide, high) = region, shown
    across, down = (x1 - x0) / wide, (y1 - y0) / high
    return x0 + box[0] * across, y0 + box[1] * down, x0 + box[2] * across, y0 + box[3] * down


@given(SIZES, SIZES, SHARES, SHARES)
def test_a_crop_of_a_crop_is_the_part_of_the_part(width, height, first, second):
    """The second region is what both maps in a row say, within the pixel that rounding may add on each side."""
    whole = seen((0, 0, width, height), (width, height), (1, 20, 30))
    try:
        outer = region_of(whole, box_in(whole, first), CropRules())
        inner_view = seen(outer, (width, height), (1, 8, 10))
        box = box_in(inner_view, second)
        inner = region_of(inner_view, box, CropRules())
    except BadBoxError:
        return
    expected = plain(
        outer, inner_view.shown, (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
    )
    for axis, size in ((0, width), (1, height)):
        start, stop = inner[axis], inner[axis + 2]
        assert 0 <= start < stop <= size
        assert stop - start >= min(28, size)
        assert start <= expected[axis] + 1e-3
        assert stop >= expected[axis + 2] - 1e-3
        if expected[axis + 2] - expected[axis] >= 28 and min(inner[2] - inner[0], inner[3] - inner[1]) > 28:
            assert expected[axis] - start < 1
            assert stop - expected[axis + 2] < 1


@given(SIZES, SIZES, SHARES)
def test_the_whole_of_a_view_is_its_own_region(width, height, shares):
    whole = seen((0, 0, width, height), (width, height), (1, 20, 30))
    try:
        region = region_of(whole, box_in(whole, shares), CropRules())
    except BadBoxError:
        return
    part = seen(region, (width, height), (1, 6, 14))
    assert region_of(part, (0, 0, *part.shown), CropRules()) == region


def test_d6_a_second_crop_is_cut_from_what_the_first_one_showed():
    first = seen((112, 112, 224, 224))
    assert region_of(first, (0, 0, 28, 28), CropRules()) == (112, 112, 168, 168)


def test_d7_a_box_is_in_the_frame_that_the_model_sees():
    """731 x 548 was asked for, 728 x 560 is shown: the lower right corner is the page's."""
    view = seen((0, 0, 1462, 1096), (1462, 1096), (1, 40, 52))
    assert view.shown == (728, 560)
    assert region_of(view, (364, 280, 728, 560), CropRules()) == (731, 548, 1462, 1096)


def test_d8_padding_is_one_setting_for_training_and_validation():
    assert region_of(seen(), (14, 14, 28, 28), CropRules(pad=8)) == (48, 48, 120, 120)
    assert "pad" in CropRules.__dataclass_fields__
    assert not [name for name in CropRules.__dataclass_fields__ if "val" in name]


@pytest.mark.parametrize(
    ("box", "why"),
    [((10, 10, 10, 50), "empty"), ((60, 0, 90, 50), "empty"), ((-50, -50, -1, -1), "empty"), ((0, 9, 56, 9), "empty")],
)
def test_d9_a_box_without_area_on_the_page_is_refused(box, why):
    with pytest.raises(BadBoxError, match=why):
        region_of(seen(), box, CropRules())


def test_d9_corners_in_the_wrong_order_are_repaired_or_refused():
    assert region_of(seen(), (56, 28, 28, 0), CropRules()) == (112, 0, 224, 112)
    with pytest.raises(BadBoxError, match="swapped"):
        region_of(seen(), (56, 28, 28, 0), CropRules(repair=False))


def test_small_boxes_grow_around_their_centre_and_stay_on_the_page():
    assert region_of(seen(), (28, 28, 29, 29), CropRules()) == (100, 100, 128, 128)
    assert region_of(seen(), (55, 55, 56, 56), CropRules()) == (196, 196, 224, 224)
    assert region_of(seen((0, 0, 20, 300), (20, 300), (1, 30, 2)), (0, 0, 1, 1), CropRules()) == (0, 0, 20, 28)


def test_no_crop_is_steeper_than_the_processor_takes():
    wide = seen((0, 0, 6000, 500), (6000, 500), (1, 4, 48))
    region = region_of(wide, (0, 10, 672, 10.1), CropRules())
    assert (region[2] - region[0]) / (region[3] - region[1]) <= 100
    thread = seen((0, 0, 6000, 30), (6000, 30), (1, 2, 200))
    with pytest.raises(BadBoxError, match="narrow"):
        region_of(thread, (0, 0, 2800, 28), CropRules())


def test_a_zoom_shows_pixels_that_the_page_lost_when_it_was_shown():
    """One red pixel of 224 x 224, gone at 56 x 56, is a sixteenth of its crop's width."""
    page = Image.new("RGB", (224, 224), "white")
    page.putpixel((120, 120), (255, 0, 0))
    viewer = Viewer(PictureRules(min_pixels=3136, max_pixels=3136))
    whole = viewer.view("deck/1", pixels(page))
    part = viewer.zoom(whole, box_of("[28, 28, 36, 36]"))
    assert (whole.shown, part.shown, part.region) == ((56, 56), (56, 56), (112, 112, 144, 144))
    assert min(g for _, (r, g, b) in whole.image.getcolors(9999)) > 200
    assert min(g for _, (r, g, b) in part.image.getcolors(9999)) < 100
    assert (whole.tokens, part.page, part.whole) == (4, "deck/1", False)


def test_a_part_of_a_page_in_the_frame_of_a_view_leads_back_to_the_part():
    """As demonstrations state boxes: rounded to a pixel of the view, which is two of the page here."""
    view = seen((100, 200, 900, 1000), (1000, 1200), (1, 28, 28))
    box = shown_box(view, (300, 400, 500, 800))
    assert box == (98, 98, 196, 294)
    back = region_of(view, box, CropRules())
    assert all(abs(one - two) <= 2 for one, two in zip(back, (300, 400, 500, 800), strict=True))
    assert shown_box(view, (0, 0, 1000, 1200)) == (0, 0, 391, 391)
