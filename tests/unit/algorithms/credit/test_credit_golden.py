"""The published tables of group credit: eight rollouts, four rollouts, seven rollouts with a demonstration."""

import pytest
import torch
from credit_rows import by_row, group, pack

from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, CreditSettings

DIGITS = 1e-6  # the tables are printed with seven digits


def credit(name: str, scores: list[float], *, demos: int = 0, **settings) -> list[float | None]:
    rows = pack(group(scores, demos=demos))
    return by_row(rows, ESTIMATORS.get(name)(rows, CreditSettings(**settings)).advantage)


# Eight rollouts of reward 0 or 1: successes k -> (success, failure) without std, (success, failure) with std.
EIGHT = {
    0: (None, 0.0, None, 0.0),
    1: (0.875, -0.125, 2.4748667, -0.3535524),
    2: (0.75, -0.25, 1.6201817, -0.5400606),
    3: (0.625, -0.375, 1.2076124, -0.7245674),
    4: (0.5, -0.5, 0.9354126, -0.9354126),
    5: (0.375, -0.625, 0.7245674, -1.2076124),
    6: (0.25, -0.75, 0.5400606, -1.6201817),
    7: (0.125, -0.875, 0.3535524, -2.4748667),
    8: (0.0, None, 0.0, None),
}


@pytest.mark.parametrize("name", ["grpo", "grpo_split"])
@pytest.mark.parametrize("k", EIGHT)
def test_eight_rollouts_have_the_golden_credit(name, k):
    success, failure, success_std, failure_std = EIGHT[k]
    scores = [1.0] * k + [0.0] * (8 - k)
    assert credit(name, scores) == pytest.approx([success] * k + [failure] * (8 - k), abs=DIGITS)
    expected = [success_std] * k + [failure_std] * (8 - k)
    assert credit(name, scores, use_std=True) == pytest.approx(expected, abs=DIGITS)


# Four rollouts, in the same columns.
FOUR = {
    0: (None, 0.0, None, 0.0),
    1: (0.75, -0.25, 1.499997, -0.499999),
    2: (0.5, -0.5, 0.8660239, -0.8660239),
    3: (0.25, -0.75, 0.499999, -1.499997),
    4: (0.0, None, 0.0, None),
}


@pytest.mark.parametrize("k", FOUR)
def test_four_rollouts_have_the_golden_credit(k):
    success, failure, success_std, failure_std = FOUR[k]
    scores = [1.0] * k + [0.0] * (4 - k)
    assert credit("grpo", scores) == pytest.approx([success] * k + [failure] * (4 - k), abs=DIGITS)
    expected = [success_std] * k + [failure_std] * (4 - k)
    assert credit("grpo", scores, use_std=True) == pytest.approx(expected, abs=DIGITS)


def test_the_first_example_of_the_plan_has_its_credit():
    assert credit("grpo", [1.0, 0.0, 0.0, 1.0]) == [0.5, -0.5, -0.5, 0.5]
    with_std = credit("grpo", [1.0, 0.0, 0.0, 1.0], use_std=True)
    assert with_std == pytest.approx([0.866, -0.866, -0.866, 0.866], abs=1e-3)


def test_graded_rewards_of_version_1_have_the_golden_credit():
    scores = [1, 1, -0.5, -0.5, -0.5, -1, -1, 1]
    plain, with_std = [1.0625, -0.4375, -0.9375], [1.1755116, -0.4840342, -1.0372161]
    for values, use_std in ((plain, False), (with_std, True)):
        right, wrong, bad = values
        expected = [right, right, wrong, wrong, wrong, bad, bad, right]
        assert credit("grpo", scores, use_std=use_std) == pytest.approx(expected, abs=DIGITS)


def test_a_demonstration_alone_keeps_its_reward():
    """A prompt routed to imitation: one row, which is a demonstration."""
    for name in ("grpo", "grpo_split"):
        for include_demo in (False, True):
            assert credit(name, [1.0], demos=1, include_demo=include_demo) == [1.0]
            assert credit(name, [0.0], demos=1, include_demo=include_demo) == [0.0]
            with_std = credit(name, [1.0], demos=1, include_demo=include_demo, use_std=True)
            assert with_std == pytest.approx([0.999999], abs=1e-7)


# Seven rollouts with k successes and a demonstration judged right; the demonstration gets what a success gets.
# (success, failure) of: grpo over all eight, without std and with; grpo_split, without std and with.
MIXED = {
    0: ((0.875, -0.125), (2.4748667, -0.3535524), (1.0, 0.0), (0.999999, 0.0)),
    1: ((0.75, -0.25), (1.6201817, -0.5400606), (0.8571429, -0.1428571), (2.2677808, -0.3779635)),
    2: ((0.625, -0.375), (1.2076124, -0.7245674), (0.7142857, -0.2857143), (1.4638471, -0.5855388)),
    3: ((0.5, -0.5), (0.9354126, -0.9354126), (0.5714286, -0.4285714), (1.069043, -0.8017822)),
    4: ((0.375, -0.625), (0.7245674, -1.2076124), (0.4285714, -0.5714286), (0.8017822, -1.069043)),
    5: ((0.25, -0.75), (0.5400606, -1.6201817), (0.2857143, -0.7142857), (0.5855388, -1.4638471)),
    6: ((0.125, -0.875), (0.3535524, -2.4748667), (0.1428571, -0.8571429), (0.3779635, -2.2677808)),
    7: ((0.0, None), (0.0, None), (0.0, None), (0.0, None)),
}


@pytest.mark.parametrize("k", MIXED)
def test_seven_rollouts_and_a_right_demonstration_have_the_golden_credit(k):
    scores = [1.0] + [1.0] * k + [0.0] * (7 - k)
    ways = [("grpo", False), ("grpo", True), ("grpo_split", False), ("grpo_split", True)]
    for (name, use_std), (success, failure) in zip(ways, MIXED[k], strict=True):
        expected = [success] * (k + 1) + [failure] * (7 - k)
        found = credit(name, scores, demos=1, use_std=use_std, include_demo=True)
        assert found == pytest.approx(expected, abs=DIGITS), (name, use_std)


def test_a_demonstration_judged_wrong_has_the_golden_credit():
    three = [0.0] + [1.0] * 3 + [0.0] * 4
    whole = credit("grpo", three, demos=1, include_demo=True)
    split = credit("grpo_split", three, demos=1)
    assert whole == pytest.approx([-0.375] + [0.625] * 3 + [-0.375] * 4, abs=DIGITS)
    assert split == pytest.approx([-0.428571] + [0.571429] * 3 + [-0.428571] * 4, abs=DIGITS)
    seven = [0.0] + [1.0] * 7
    assert credit("grpo", seven, demos=1, include_demo=True) == pytest.approx([-0.875] + [0.125] * 7, abs=DIGITS)
    assert credit("grpo_split", seven, demos=1) == pytest.approx([-1.0] + [0.0] * 7, abs=DIGITS)
    assert credit("grpo_split", seven, demos=1, use_std=True) == pytest.approx([-0.999999] + [0.0] * 7, abs=1e-7)


def test_split_is_defined_where_the_released_code_failed():
    """A group without a rollout (there, a missing key) and one with a single rollout: mean 0 and std 1."""
    assert credit("grpo_split", [1.0, 0.0], demos=2) == [1.0, 0.0]
    assert credit("grpo_split", [1.0, 0.25], demos=1) == [1.0, 0.25]
    found = credit("grpo_split", [1.0, 0.25], demos=1, use_std=True)
    assert found == pytest.approx([0.999999, 0.24999975], abs=1e-7)


def test_equal_scores_follow_one_rule_in_grpo_and_split():
    """The released code divided by 1e-6 in one and by 1 in the other; here both divide by 1."""
    scores = [0.25] + [1.0] * 7
    alone = credit("grpo", scores, demos=1, use_std=True, include_demo=False)
    split = credit("grpo_split", scores, demos=1, use_std=True, include_demo=True)
    assert alone == split == pytest.approx([-0.75 / 1.000001] + [0.0] * 7, abs=1e-7)


def test_rewards_that_differ_by_rounding_alone_give_no_credit():
    """Neighbours in float32: their std lies below the floor."""
    almost = 0.3, float(torch.nextafter(torch.tensor(0.3), torch.tensor(1.0)))
    found = credit("grpo", [*almost] * 4, use_std=True)
    assert found == pytest.approx([0.0] * 8, abs=1e-7)
    assert credit("pass_at_k", [*almost] * 4, pass_k=2) == pytest.approx([0.0] * 8, abs=1e-6)
