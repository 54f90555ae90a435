"""Images in threads with a cache, and changes that keep targets true. Not covered: the speed; see benchmarks."""

import dataclasses
import io
import random
import threading

import numpy as np
import pytest
from PIL import Image

from hpt_megatron.config.load import load
from hpt_megatron.data.augment import Move, altered, augmented
from hpt_megatron.data.pictures import PictureRules, open_source, patches, show, shown_size
from hpt_megatron.data.prepared import Preparer
from hpt_megatron.data.record import IMAGE, Message, Record, Source
from hpt_megatron.data.tasks.make import records
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast

RULES = PictureRules(min_pixels=784, max_pixels=64 * 784)


def source(width, height, seed=0):
    held = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(held, "PNG")
    return Source(data=held.getvalue())


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("cache", [0, 2**20])
def test_the_order_is_that_of_the_sources_and_the_pixels_are_those_of_show(threads, cache):
    sources = [source(20 + 9 * number, 300 - 9 * number, number) for number in range(20)]
    with Preparer(RULES, threads, cache) as preparer:
        for _ in range(2):
            for given, image in zip(sources, preparer.images(sources), strict=True):
                original = open_source(given)
                assert image == show(original, shown_size(*original.size, RULES))
        first = preparer.patches(sources[:2])
        assert np.array_equal(first[1], patches(preparer.image(sources[1]), RULES))
        assert (preparer.hits > 0) == bool(cache)


def test_the_cache_never_holds_more_than_it_may_and_forgets_the_oldest():
    sources = [source(56, 56, number) for number in range(6)]
    with Preparer(RULES, 1, cache_bytes=3 * 56 * 56 * 4) as preparer:
        for given in sources:
            preparer.image(given)
            assert preparer.held_bytes <= preparer.cache_bytes
        preparer.image(sources[5]), preparer.image(sources[3])
        assert (preparer.hits, preparer.misses) == (2, 6)
        preparer.image(sources[0])
        assert preparer.misses == 7
        preparer.image(source(224, 224))  # larger than the whole cache
        assert preparer.held_bytes == 3 * 56 * 56 * 4


def test_a_file_that_changes_is_another_image(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(source(28, 28, 1).data)
    with Preparer(RULES, 1, 2**20) as preparer:
        first = preparer.image(Source(path=str(path)))
        path.write_bytes(source(56, 28, 2).data)
        assert preparer.image(Source(path=str(path))).size != first.size


def test_a_broken_image_raises_at_its_place_and_those_before_it_were_given():
    sources = [source(28, 28), Source(data=b"no"), source(28, 28)]
    given = []
    with Preparer(RULES, 2) as preparer:
        stream = preparer.stream(sources)
        given.append(next(stream))
        with pytest.raises(UserError, match="is not an image"):
            next(stream)
    assert len(given) == 1
    with Preparer(RULES, 2) as preparer:
        for prepare in (preparer.images, preparer.patches):
            with pytest.raises(UserError, match=r"^row r7: an image of 2 bytes: is not an image"):
                prepare(sources, "r7")
        broken = Record(index="r8", prompt=(Message("user", IMAGE),), images=(sources[1],))
        preparer.augment = ("jitter",)
        with pytest.raises(UserError, match=r"^row r8: an image of 2 bytes"):
            preparer.augmented(broken, "0")
    with Preparer(RULES, 1, limits=(None, 784)) as preparer, pytest.raises(UserError, match="no such file"):
        preparer.images([Source(path="/no/such.png")])


def test_a_stream_does_not_run_ahead_of_its_reader():
    asked = []

    def sources():
        for number in range(50):
            asked.append(number)
            yield source(28, 28)

    with Preparer(RULES, 2) as preparer:
        stream = preparer.stream(sources())
        next(stream)
        assert len(asked) <= 5
        stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images")]


def test_the_settings_of_the_run_are_read():
    data = dataclasses.replace(load([]).run.data, image_cache_mb=1, image_threads=3, image_max_pixels=784)
    with Preparer.of(data, RULES) as preparer:
        assert (preparer.threads, preparer.cache_bytes) == (3, 2**20)
        assert preparer.image(source(200, 200)).size == (28, 28)


def test_boxes_move_with_the_picture():
    """A coloured rectangle on white: what the moved box holds is what the box held."""
    chance = random.Random(0)
    for _ in range(50):
        x1, y1 = chance.randint(0, 80), chance.randint(0, 80)
        x2, y2 = x1 + chance.randint(8, 30), y1 + chance.randint(8, 30)
        image = Image.new("RGB", (112, 112), "white")
        image.paste((0, 0, 255), (x1, y1, x2, y2))
        changed, move = altered(image, ["crop_pad"], chance)
        assert changed.size == image.size
        blue = np.asarray(changed)[..., 0] < 100
        rows, columns = np.flatnonzero(blue.any(1)), np.flatnonzero(blue.any(0))
        left, top, right, bottom = move.box((x1, y1, x2, y2), (112, 112))
        assert left <= columns[0]
        assert columns[-1] < right
        assert top <= rows[0]
        assert rows[-1] < bottom
        assert right - left <= x2 - x1 + 2
    assert Move().box((1, 2, 3, 4), (9, 9)) == (1, 2, 3, 4)


def test_targets_are_rewritten_for_the_image_they_speak_of_and_for_no_other():
    said = (
        Message("assistant", "<bbox>[0, 28, 28, 56]</bbox><bbox>[1,x]</bbox>"),
        Message("user", IMAGE),
        Message("assistant", "<bbox>[0,0,14,14]</bbox>"),
    )
    record = Record(
        index="a",
        prompt=(Message("user", IMAGE),),
        images=(source(224, 224),),
        target=said,
        target_images=(source(9, 9),),
    )
    changed = augmented(record, ["crop_pad"], "0", lambda width, height: (56, 56))
    first, _, last = (message.content for message in changed.target)
    assert first != said[0].content
    assert first.endswith("<bbox>[1,x]</bbox>")
    assert last == said[2].content
    assert changed.target_images == record.target_images
    assert changed == augmented(record, ["crop_pad"], "0", lambda width, height: (56, 56))
    assert changed.images != augmented(record, ["crop_pad"], "1", lambda width, height: (56, 56)).images
    assert augmented(record, [], "0", lambda width, height: (56, 56)) is record


@pytest.mark.parametrize("kind", ["brightness", "jitter"])
def test_light_and_colour_change_a_little_and_sizes_and_places_stay(kind):
    for row in records("color", "train", 8, 0):
        changed = augmented(row, [kind], "7", lambda width, height: (width, height))
        before, after = (np.asarray(open_source(one.images[0])).astype(int) for one in (row, changed))
        assert before.shape == after.shape
        assert 0 < np.abs(before - after).mean() < 60
        assert changed.target == row.target
