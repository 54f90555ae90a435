"""Positions around images, as worked out by hand."""

import pytest

from hpt_megatron.rollout.positions import delta, positions

pytestmark = pytest.mark.fast
PAD, T = 7, 1


def triples(ids, grids):
    return [tuple(column) for column in positions(ids, grids, PAD).T.tolist()]


def test_one_image_has_the_golden_positions():
    ids = [T, T, T, 2, PAD, PAD, PAD, PAD, 3, T, T]
    expected = [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4), (4, 4, 5), (4, 5, 4), (4, 5, 5)]
    assert triples(ids, [(1, 4, 4)]) == [*expected, (6, 6, 6), (7, 7, 7), (8, 8, 8)]
    assert delta(ids, [(1, 4, 4)], PAD) == -2


def test_two_observations_have_the_golden_positions():
    ids = [T, T, T, T, T, 2, *[PAD] * 6, 3, T, T, T, T, T, 2, *[PAD] * 4, 3, T, T]
    found = triples(ids, [(1, 4, 6), (1, 4, 4)])
    first = found[6:12]
    assert {t for t, _, _ in first} == {6}
    assert [(h, w) for _, h, w in first] == [(6, 6), (6, 7), (6, 8), (7, 6), (7, 7), (7, 8)]
    assert found[12] == (9, 9, 9)
    assert found[18] == (15, 15, 15)
    assert found[19:23] == [(16, 16, 16), (16, 16, 17), (16, 17, 16), (16, 17, 17)]
    assert found[23] == (18, 18, 18)
    assert found[25] == (20, 20, 20)
    assert delta(ids, [(1, 4, 6), (1, 4, 4)], PAD) == -5


def test_text_alone_counts_up_and_nothing_has_no_positions():
    assert triples([T, T], []) == [(0, 0, 0), (1, 1, 1)]
    assert delta([T, T], [], PAD) == 0
    assert positions([], [], PAD).shape == (3, 0)


def test_placeholders_that_do_not_match_the_grids_are_refused():
    with pytest.raises(ValueError, match="3 placeholders, and the grids ask for 4"):
        positions([T, PAD, PAD, PAD], [(1, 4, 4)], PAD)
    with pytest.raises(ValueError, match="not 4 in a row"):
        positions([T, PAD, PAD, T, PAD, PAD], [(1, 4, 4)], PAD)
