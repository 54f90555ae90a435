"""Images onto the ranks that encode them."""

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.errors import UserError
from hpt_megatron.layout import share as module
from hpt_megatron.layout.share import share, uneven

pytestmark = pytest.mark.fast

COSTS = st.lists(st.integers(0, 1000).map(float), max_size=60)


def loads(costs, chosen, ranks):
    totals = [0.0] * ranks
    for cost, rank in zip(costs, chosen, strict=True):
        totals[rank] += cost
    return totals


def test_the_example_of_the_share_holds():
    result = doctest.testmod(module)
    assert (result.failed, result.attempted) == (0, 2)


@given(COSTS, st.integers(1, 9))
@settings(deadline=None)
def test_no_rank_has_more_than_an_even_share_and_one_image(costs, ranks):
    """The bound of a greedy list: the rank that got its last image had at most the mean before."""
    chosen = share(costs, ranks)
    assert len(chosen) == len(costs)
    assert set(chosen) <= set(range(ranks))
    bound = sum(costs) / ranks + max(costs, default=0.0) * (1 - 1 / ranks)
    assert max(loads(costs, chosen, ranks)) <= bound + 1e-9


@given(COSTS, st.integers(1, 9), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_images_changes_no_load(costs, ranks, random):
    mixed = random.sample(costs, len(costs))
    assert sorted(loads(costs, share(costs, ranks), ranks)) == sorted(loads(mixed, share(mixed, ranks), ranks))


def test_images_without_cost_are_spread_as_well():
    assert share([0.0] * 6, 3) == [0, 1, 2, 0, 1, 2]


def test_the_figure_is_the_excess_of_the_busiest_rank():
    assert uneven([1.0, 1.0], [0, 1], 2) == 0
    assert uneven([1.0, 1.0], [0, 0], 2) == 1
    assert uneven([3.0, 1.0], [0, 1], 4) == 2
    assert uneven([], [], 4) == 0


def test_no_ranks_are_refused():
    with pytest.raises(UserError, match="0 ranks"):
        share([1.0], 0)
