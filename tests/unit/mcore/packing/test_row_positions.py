"""Positions of a row's tokens, by value and against a plain walk over the row.

Not covered: what the engine and transformers answer; that is in tests/engines/test_positions_elsewhere.py.
"""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.config.load import load
from hpt_megatron.mcore.packing.positions import Placeholders, row_positions

TINY = load(["model=tiny"]).run.model
HOLDERS = Placeholders.of(TINY)
IMAGE, VIDEO, TEXT, START, END = TINY.image_token_id, TINY.video_token_id, 7, 1, 2
GRIDS = st.tuples(st.integers(1, 8), st.integers(1, 4), st.integers(1, 4))
# Text before each picture, its merged grid, its seconds between frames; then the text at the end.
ROWS = st.tuples(
    st.lists(st.tuples(st.integers(0, 4), GRIDS, st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0, 1.9])), max_size=4),
    st.integers(0, 5),
)


def row_of(pieces, rest):
    """The ids, the grids in patches and the seconds of a drawn row; still images have one frame."""
    ids, grids, seconds = [], [], []
    for before, (frames, height, width), between in pieces:
        frames = frames if between else 1
        ids += [TEXT] * before + [VIDEO if between else IMAGE] * (frames * height * width)
        grids.append((frames, 2 * height, 2 * width))
        seconds.append(float(torch.tensor(between)))
    return torch.tensor([*ids, *[TEXT] * rest], dtype=torch.int64), grids, seconds


def walked(pieces, rest):
    """The rule token by token, in whole numbers and Python's floats."""
    found, following = [], 0
    for before, (frames, height, width), between in pieces:
        found += [(following + at,) * 3 for at in range(before)]
        following += before
        apart = float(torch.tensor(between)) * TINY.vision.tokens_per_second if between else 1.0
        picture = [
            (following + math.floor(frame * apart), following + down, following + across)
            for frame in range(frames if between else 1)
            for down in range(height)
            for across in range(width)
        ]
        found += picture
        following = max(map(max, picture)) + 1
    return found + [(following + at,) * 3 for at in range(rest)]


def test_one_image_of_four_by_four_patches_has_the_published_positions():
    ids = torch.tensor([TEXT, TEXT, TEXT, START, *[IMAGE] * 4, END, TEXT, TEXT])
    expected = [(p, p, p) for p in range(4)]
    expected += [(4, 4, 4), (4, 4, 5), (4, 5, 4), (4, 5, 5), (6, 6, 6), (7, 7, 7), (8, 8, 8)]
    assert list(map(tuple, row_positions(ids, [(1, 4, 4)], [0.0], HOLDERS).T.tolist())) == expected


def test_two_observations_have_the_published_positions():
    """Images of 2 x 3 and 2 x 2 merged tokens; the second starts where the first one left the count."""
    text = [TEXT] * 5
    ids = torch.tensor([*text, START, *[IMAGE] * 6, END, *text, START, *[IMAGE] * 4, END, TEXT, TEXT])
    found = row_positions(ids, [(1, 4, 6), (1, 4, 4)], [0.0, 0.0], HOLDERS)
    assert len(ids) == 26
    assert found[0, 6:12].tolist() == [6] * 6
    assert found[1, 6:12].tolist() == [6, 6, 6, 7, 7, 7]
    assert found[2, 6:12].tolist() == [6, 7, 8, 6, 7, 8]
    assert found[:, 12].tolist() == [9, 9, 9]
    assert found[:, 18].tolist() == [15, 15, 15]
    assert found[0, 19:23].tolist() == [16] * 4
    assert found[1, 19:23].tolist() == [16, 16, 17, 17]
    assert found[2, 19:23].tolist() == [16, 17, 16, 17]
    assert found[:, 23].tolist() == [18] * 3
    assert found[:, 25].tolist() == [20] * 3


def test_a_row_of_text_counts_its_tokens_in_all_three_dimensions():
    for holders in (HOLDERS, None):
        assert row_positions(torch.tensor([TEXT] * 3), [], [], holders).tolist() == [[0, 1, 2]] * 3


def test_a_model_without_a_tower_has_no_placeholders():
    assert Placeholders.of(load(["model=llama-3.1-8b"]).run.model) is None


@settings(deadline=None, max_examples=60)
@given(ROWS)
def test_every_row_of_text_images_and_videos_is_counted_as_a_walk_over_its_tokens_counts(row):
    """Pictures side by side, at the start and at the end too; seconds that floats hold only nearly."""
    ids, grids, seconds = row_of(*row)
    if len(ids):
        assert list(map(tuple, row_positions(ids, grids, seconds, HOLDERS).T.tolist())) == walked(*row)


def test_frames_stand_where_the_exact_product_of_seconds_falls():
    """0.7 s as a column of float32 holds it is a little less: 5 x 1.39999998 lies below 7, as the engine finds too."""
    seconds = float(torch.tensor(0.7))
    ids = torch.tensor([VIDEO] * 6)
    assert row_positions(ids, [(6, 2, 2)], [seconds], HOLDERS)[0].tolist() == [0, 1, 2, 4, 5, 6]
