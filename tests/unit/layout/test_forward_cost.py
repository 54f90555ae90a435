"""Floating point operations, against numbers written out by hand and windows counted one patch at a time.

Not covered: how long an operation takes; window attention runs at another rate than a matrix product.
"""

import dataclasses
import doctest
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.config.geometry import language_parameters
from hpt_megatron.config.load import load
from hpt_megatron.errors import UserError
from hpt_megatron.layout import cost
from hpt_megatron.layout.cost import head_cost, language_cost, merged_tokens, patches, vision_cost, window_lengths

pytestmark = pytest.mark.fast

SEVEN = load(["model=qwen2.5-vl-7b"]).run.model
TOWER = SEVEN.vision
assert TOWER is not None
GRIDS = st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24))


def test_the_example_of_the_costs_holds():
    result = doctest.testmod(cost)
    assert (result.failed, result.attempted) == (0, 3)


def test_a_token_of_the_7b_model_passes_its_matrices_once():
    """28 x (3584 x 4608 + 3584 x 3584 + 3 x 3584 x 18944) weights, 2 operations each; 14336 x 28 of attention."""
    assert language_cost(SEVEN, 1) == 2 * 6_525_288_448 + 28 * 2 * 3584
    assert language_cost(SEVEN, 4096) == 4096 * 2 * 6_525_288_448 + 28 * 2 * 3584 * 4096**2
    assert head_cost(SEVEN, 10) == 10 * 2 * 3584 * 152_064


@pytest.mark.parametrize("name", ["qwen2.5-vl-3b", "qwen2.5-vl-72b", "qwen2.5-0.5b", "llama-3.1-8b", "tiny"])
def test_the_linear_part_is_the_weights_without_vectors_and_embeddings(name):
    """From the count of all parameters, taking away what is no matrix: an independent sum."""
    model = load([f"model={name}"]).run.model
    keys = model.num_key_value_heads * model.head_dim
    queries = model.num_attention_heads * model.head_dim
    vectors = 2 * model.hidden_size + (queries + 2 * keys if model.attention_bias else 0)
    embeddings = model.vocab_size * model.hidden_size * (1 if model.tie_word_embeddings else 2)
    weights = language_parameters(model) - embeddings - model.hidden_size - model.num_hidden_layers * vectors
    squares = 2 * queries * model.num_hidden_layers
    assert 2 * language_cost(model, 2) - language_cost(model, 4) == squares * (2 * 2**2 - 4**2)
    assert language_cost(model, 1) == 2 * weights + squares


def test_a_grid_of_4_by_4_is_one_window():
    """16 patches: embedding 1176 x 1280; a block 4 x 1280^2 + 3 x 1280 x 3420; all blocks alike see 16 x 16 pairs."""
    grid = (1, 4, 4)
    assert (patches(grid), merged_tokens(TOWER, grid), window_lengths(TOWER, grid)) == (16, 4, [16])
    linear = 2 * 16 * (1_505_280 + 32 * (6_553_600 + 13_132_800))
    attention = 32 * 4 * 1280 * 16 * 16
    merger = 2 * 4 * (5120 * 5120 + 5120 * 3584)
    assert vision_cost(TOWER, grid) == linear + attention + merger
    assert vision_cost(TOWER, grid) == 20_605_501_440


def test_a_grid_of_36_by_36_has_clipped_windows():
    """18 x 18 merged tokens in windows of 4: 16 full ones, 8 of 4 x 2, one of 2 x 2; four blocks see everything."""
    grid = (1, 36, 36)
    assert (patches(grid), merged_tokens(TOWER, grid)) == (1296, 324)
    assert Counter(window_lengths(TOWER, grid)) == {64: 16, 32: 8, 16: 1}
    linear = 2 * 1296 * (1_505_280 + 32 * 19_686_400)
    windows = 28 * 4 * 1280 * (16 * 64**2 + 8 * 32**2 + 16**2)
    full = 4 * 4 * 1280 * 1296**2
    merger = 2 * 324 * (5120 * 5120 + 5120 * 3584)
    assert vision_cost(TOWER, grid) == linear + windows + full + merger
    assert vision_cost(TOWER, grid) == 1_710_653_112_320


@given(GRIDS, st.sampled_from([(112, 14, 2), (112, 14, 1), (56, 14, 2), (100, 14, 2), (64, 8, 3)]))
@settings(deadline=None)
def test_the_windows_are_those_that_a_count_of_single_patches_finds(half, sizes):
    window, patch, merge = sizes
    vision = dataclasses.replace(TOWER, window_size=window, patch_size=patch, spatial_merge_size=merge)
    grid = (half[0], half[1] * merge, half[2] * merge)
    side = window // merge // patch * merge
    found = Counter(
        (frame, row // side, column // side)
        for frame in range(grid[0])
        for row in range(grid[1])
        for column in range(grid[2])
    )
    assert window_lengths(vision, grid) == [found[where] for where in sorted(found)]
    assert sum(window_lengths(vision, grid)) == patches(grid)
    pairs = sum(count * count for count in found.values())
    only_windows = dataclasses.replace(vision, fullatt_block_indexes=())
    only_full = dataclasses.replace(vision, fullatt_block_indexes=tuple(range(vision.depth)))
    frame = grid[1] * grid[2]
    difference = vision_cost(only_full, grid) - vision_cost(only_windows, grid)
    assert difference == 4 * vision.hidden_size * vision.depth * (grid[0] * frame * frame - pairs)


@given(GRIDS)
@settings(deadline=None)
def test_frames_of_a_video_cost_what_as_many_images_cost(half):
    """Attention never crosses a frame, in either kind of block."""
    frames, height, width = half[0], 2 * half[1], 2 * half[2]
    assert vision_cost(TOWER, (frames, height, width)) == frames * vision_cost(TOWER, (1, height, width))


def test_an_index_of_a_block_that_is_not_there_counts_nothing():
    extra = dataclasses.replace(TOWER, fullatt_block_indexes=(*TOWER.fullatt_block_indexes, 7, 99))
    assert vision_cost(extra, (1, 20, 20)) == vision_cost(TOWER, (1, 20, 20))


@pytest.mark.parametrize("grid", [(1, 3, 4), (1, 4, 3), (0, 4, 4), (1, 0, 4)])
def test_a_grid_that_does_not_merge_is_refused(grid):
    with pytest.raises(UserError, match=f"{grid[0]} x {grid[1]} x {grid[2]}"):
        vision_cost(TOWER, grid)


def test_a_window_smaller_than_a_merged_token_is_refused():
    with pytest.raises(UserError, match=r"window_size.*28 or more"):
        vision_cost(dataclasses.replace(TOWER, window_size=27), (1, 4, 4))
