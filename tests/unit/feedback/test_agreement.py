"""Agreement of two judgements: worked by hand, against scipy where it is there, and where nothing is defined."""

import doctest
import random

import pytest

from hpt_megatron.cli import human_eval
from hpt_megatron.feedback import agreement, asking, cases, compare, constitution, human_sheet, revise
from hpt_megatron.feedback.agreement import kappa, ordered_alike, pearson, ranks, resampled, spearman, wilson


@pytest.mark.parametrize("module", [agreement, asking, cases, compare, constitution, human_sheet, revise, human_eval])
def test_the_examples_hold(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_correlations_and_ranks_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with the engines")
    chance = random.Random(0)
    for count in (3, 10, 100):
        one = [chance.randint(1, 5) for _ in range(count)]
        other = [value + chance.gauss(0, 2) for value in one]
        assert pearson(one, other) == pytest.approx(stats.pearsonr(one, other)[0])
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other)[0])
        assert ranks(one) == pytest.approx(list(stats.rankdata(one)))


def test_kappa_is_what_a_table_of_counts_gives():
    """Both yes 20, both no 15, only one yes 5, only the other 10: agreement 0.7, by chance 0.5."""
    one = [True] * 20 + [False] * 15 + [True] * 5 + [False] * 10
    other = [True] * 20 + [False] * 15 + [False] * 5 + [True] * 10
    assert kappa(one, other) == pytest.approx(0.4)
    assert kappa(one, one) == 1.0
    assert kappa([True, False], [False, True]) == -1.0


def test_what_is_not_defined_is_none_and_not_zero():
    assert pearson([1], [1]) is None
    assert pearson([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2], [3, 3]) is None
    assert kappa([], []) is None
    assert kappa([True, True], [True, True]) is None  # by chance they could not have differed
    assert ordered_alike([1, 1], [0.0, 1.0]) == (None, 0)
    assert wilson(0.5, 0) is None
    assert resampled([(1, 1), (1, 1), (1, 1), (1, 1)], pearson) is None


def test_an_interval_covers_as_often_as_it_says():
    """Of 300 samples of 40 draws with probability 0.3, about 95 % have an interval that holds it."""
    chance = random.Random(1)
    held = 0
    for _ in range(300):
        share = sum(chance.random() < 0.3 for _ in range(40)) / 40
        low, high = wilson(share, 40)
        held += low <= 0.3 <= high
    assert 0.91 <= held / 300 <= 0.99
    pairs = [(x, x + chance.gauss(0, 1)) for x in (chance.gauss(0, 1) for _ in range(60))]
    value = pearson(*zip(*pairs, strict=True))
    low, high = resampled(pairs, pearson)
    assert low < value < high
    assert resampled(pairs, pearson) == (low, high)
    assert high - low < 0.5
