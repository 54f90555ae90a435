"""Rows with their images: what they show, what stays true when rows are chosen, what is refused on construction."""

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.protocol import batch as module
from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows

GRIDS = [[1, 2, 2], [1, 2, 4], [2, 2, 2]]
SHOWN = [[], [2], [0, 1], [], [1, 1, 0]]


def images():
    """Every patch holds the number of its image."""
    sizes = [t * h * w for t, h, w in GRIDS]
    numbers = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    return Images(torch.tensor(GRIDS), numbers[:, None].float(), torch.tensor([0.0, 0.0, 0.5]))


def batch(shown=SHOWN):
    rows = Rows.from_lists({"ids": [[number] * (number + 1) for number in range(len(shown))]}, prompt=range(len(shown)))
    flat = torch.tensor([each for mine in shown for each in mine], dtype=torch.int64)
    return Batch(rows, images(), flat, torch.tensor([len(mine) for mine in shown], dtype=torch.int64))


def test_the_example_of_the_batch_holds():
    result = doctest.testmod(module)
    assert (result.failed, result.attempted) == (0, 4)


def test_every_row_shows_its_own_images_in_order():
    assert [batch().shown_by(row) for row in range(5)] == SHOWN


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=7))
def test_chosen_rows_show_what_they_showed(index):
    """In any order, repeated, or none; the images and their numbers stay."""
    chosen = batch().select(torch.tensor(index, dtype=torch.int64))
    assert [chosen.shown_by(row) for row in range(len(index))] == [SHOWN[row] for row in index]
    assert chosen.rows.fields["prompt"].tolist() == index
    assert len(chosen.images) == 3


def test_a_mask_over_rows_chooses_as_an_index_does():
    chosen = batch().select(torch.tensor([False, False, True, False, True]))
    assert [chosen.shown_by(row) for row in range(2)] == [[0, 1], [1, 1, 0]]
    assert chosen.rows.fields["prompt"].tolist() == [2, 4]


def test_patches_are_picked_by_image_in_the_order_asked_for_and_repeated():
    assert images().pick([2, 0])[:, 0].tolist() == [2.0] * 8 + [0.0] * 4
    assert images().pick([0, 0])[:, 0].tolist() == [0.0] * 8
    assert images().pick([]).shape == (0, 1)
    assert (images().sizes, images().grid_list[1]) == ([4, 8, 8], (1, 2, 4))


def test_rows_of_text_show_nothing():
    text = Batch.of_text(Rows.from_lists({"ids": [[1], [2, 3]]}))
    assert [text.shown_by(row) for row in (0, 1)] == [[], []]
    assert (len(text.images), text.images.pick([]).shape) == (0, (0, 0))


def test_sizes_that_do_not_fit_are_named():
    """Patches for grids, seconds for grids, counts for rows, numbers for counts."""
    grids, rows = torch.tensor([[1, 2, 2]]), Rows.from_lists({"ids": [[1], [2]]})
    with pytest.raises(ValueError, match="3 patches, but the grids ask for 4"):
        Images(grids, torch.zeros(3, 1), torch.zeros(1))
    with pytest.raises(ValueError, match="2 entries of seconds for 1 grids"):
        Images(grids, torch.zeros(4, 1), torch.zeros(2))
    with pytest.raises(ValueError, match="1 counts of images for 2 rows"):
        Batch(rows, images(), torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(ValueError, match="rows show 2 images by their counts, 1 are named"):
        Batch(rows, images(), torch.tensor([0]), torch.tensor([1, 1]))


def test_a_number_of_an_image_that_is_not_there_is_left_for_the_trainer_to_tell():
    assert batch([[7]]).shown_by(0) == [7]


def test_a_row_is_called_by_its_place_prompt_and_sample():
    rows = Rows.from_lists({"ids": [[1], [2]]}, prompt=[4, 5], sample=[0, 3])
    assert Batch.of_text(rows).name(1) == "row 1 (prompt 5, sample 3)"
    assert batch().name(2) == "row 2 (prompt 2)"
    assert Batch.of_text(Rows.from_lists({"ids": [[1]]})).name(0) == "row 0"
