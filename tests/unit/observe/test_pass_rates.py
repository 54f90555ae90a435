"""pass@k and its interval: against every draw there is, and against what chance would do.

Not covered: other samples of the same prompts, which the interval does not speak of.
"""

import doctest
from itertools import combinations
from statistics import fmean

import pytest

from hpt_megatron.observe import pass_rates
from hpt_megatron.observe.pass_rates import Figure, Group, figures, interval, pass_at

pytestmark = pytest.mark.fast


def group(right, n=4, source="count"):
    return Group(source, tuple(float(i < right) for i in range(n)), tuple(i < right for i in range(n)))


def test_the_examples_of_the_module_hold():
    assert doctest.testmod(pass_rates) == (0, 4)


def test_pass_at_k_is_the_share_of_all_draws_that_hold_a_success():
    for n in range(1, 7):
        for right in range(n + 1):
            said = [i < right for i in range(n)]
            for k in range(1, n + 1):
                draws = [any(draw) for draw in combinations(said, k)]
                assert pass_at(n, right, k) == pytest.approx(fmean(draws))
    for n, k in ((4, 0), (4, 5)):
        with pytest.raises(ValueError, match=f"{k} of {n} responses"):
            pass_at(n, 1, k)


def test_several_k_come_from_the_same_responses_by_source_and_of_all():
    told = figures([group(0), group(2), group(4), group(1, source="lookup")], [1, 2, 4])
    assert list(told) == ["count", "lookup", "all"]
    assert {name: round(one.value, 6) for name, one in told["count"].items()} == {
        "mean_score": 0.5,
        "avg@4": 0.5,
        "pass@1": 0.5,
        "pass@2": round((0 + 5 / 6 + 1) / 3, 6),
        "pass@4": round(2 / 3, 6),
    }
    assert told["all"]["pass@4"].value == 0.75
    assert told["lookup"]["pass@2"] == Figure(0.5, 0.5, 0.5, 1)
    assert list(figures([group(1, source="")], [1])) == ["(no data source)"]


def test_a_prompt_with_too_few_responses_left_counts_only_where_it_has_enough():
    told = figures([group(2), group(0, n=1)], [1, 2])["count"]
    assert (told["pass@1"].value, told["pass@1"].prompts) == (0.25, 2)
    assert (told["pass@2"].value, told["pass@2"].prompts) == (pytest.approx(5 / 6), 1)


def test_an_interval_holds_the_mean_narrows_with_more_prompts_and_repeats_itself():
    few, many = [0.0, 1.0] * 10, [0.0, 1.0] * 250
    low, high = interval(few, seed=0)
    assert low < 0.5 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 20**0.5, rel=0.15), "as wide as the normal one"
    assert interval(few, seed=0) == (low, high)
    assert interval(few, seed=1) != (low, high)
    wide, narrow = high - low, interval(many, seed=0)
    assert narrow[1] - narrow[0] == pytest.approx(wide / 5, rel=0.2)
    assert interval([1.0, 1.0, 1.0], seed=0) == (1.0, 1.0)
