"""Single formulas of the group family against numbers worked out by hand, or by writing out all draws."""

import doctest
from dataclasses import replace
from itertools import combinations
from math import comb, sqrt

import pytest
import torch
from credit_rows import Row, by_row, group, pack

import hpt_megatron.algorithms.credit as package
from hpt_megatron.algorithms.credit import group as group_module
from hpt_megatron.algorithms.credit import pass_at_k, prefix_weight, remax, returns, whiten
from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, STD_FLOOR, Credit, CreditSettings
from hpt_megatron.algorithms.credit.prefix_weight import weigh_prefix
from hpt_megatron.errors import UserError


def credit(name: str, batch: list[Row], **chosen) -> list[float | None]:
    rows = pack(batch)
    return by_row(rows, ESTIMATORS.get(name)(rows, CreditSettings(**chosen)).advantage)


def test_leave_one_out_of_one_success_in_four():
    third = pytest.approx(-1 / 3)
    assert credit("rloo", group([1.0, 0.0, 0.0, 0.0])) == [1.0, third, third, third]


def test_leave_one_out_measures_an_uncounted_demonstration_against_all_rollouts():
    assert credit("rloo", group([1.0, 1.0, 0.0, 0.0], demos=1)) == pytest.approx([2 / 3, 1.0, -0.5, -0.5])
    counted = credit("rloo", group([1.0, 1.0, 0.0, 0.0], demos=1), include_demo=True)
    assert counted == pytest.approx([2 / 3, 2 / 3, -2 / 3, -2 / 3])


def test_dr_grpo_never_divides():
    scores = [3.0, 1.0, 1.0, -1.0]
    assert credit("dr_grpo", group(scores), use_std=True) == credit("grpo", group(scores)) == [2.0, 0.0, 0.0, -2.0]
    assert credit("grpo", group(scores), use_std=True) != [2.0, 0.0, 0.0, -2.0]


def test_the_baseline_of_opo_weighs_rows_by_their_length():
    """Lengths 1 and 3, scores 0 and 1: the baseline is 3/4, not 1/2. Untrained tokens have no length."""
    short = Row(0, (True, False), (0.0, 0.0), (0.0, 0.0))
    long = Row(0, (True, True, False, True), (0.0, 0.0, 0.0, 1.0), (0.0,) * 4)
    assert credit("opo", [short, long]) == [-0.75, 0.25]


def test_gpg_scales_by_the_share_of_groups_that_teach_something():
    """Three groups, one of equal scores: alpha = 3 / 2. A row alone in its group is neither counted nor scaled."""
    batch = [*group([1.0, 0.0], prompt=0), *group([1.0, 1.0], prompt=1), *group([0.0, 2.0], prompt=2)]
    expected = [0.75, -0.75, 0.0, 0.0, -1.5, 1.5]
    assert credit("gpg", batch) == expected
    assert credit("gpg", [*batch, *group([0.5], prompt=3)]) == [*expected, 0.5]
    assert credit("gpg", group([1.0, 1.0])) == [0.0, 0.0]


def test_balance_knows_only_the_sign():
    assert credit("grpo_balance", group([1.0, 0.1, 0.0, -2.0])) == [1.0, 1.0, -1.0, -1.0]


@pytest.mark.parametrize(("n", "k"), [(8, 1), (8, 2), (8, 4), (5, 5), (32, 4), (64, 32)])
@pytest.mark.parametrize("failures", [0, 1, 4, 5])
def test_pass_at_k_of_right_and_wrong_is_the_published_formula(n, k, failures):
    found = credit("pass_at_k", group([1.0] * (n - failures) + [0.0] * failures), pass_k=k)
    p = 1 - comb(failures, k) / comb(n, k)
    sd = sqrt(p * (1 - p)) + STD_FLOOR
    beside = comb(failures - 1, k - 1) / comb(n - 1, k - 1) if failures else 0.0
    expected = [(1 - p) / sd] * (n - failures) + [(1 - p - beside) / sd] * failures
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_pass_at_k_of_graded_scores_is_the_mean_over_all_draws():
    scores = [1.0, -0.5, -0.5, -1.0, 0.25, 0.75]
    for k in range(1, 7):
        draws = list(combinations(range(6), k))
        best = torch.tensor([max(scores[i] for i in draw) for draw in draws], dtype=torch.float64)
        sd = float(best.std(correction=0))
        for i, got in enumerate(credit("pass_at_k", group(scores), pass_k=k)):
            mine = torch.tensor([float(best[j]) for j, draw in enumerate(draws) if i in draw], dtype=torch.float64)
            # The scores span 2, and the floor stands beside the sd of scores scaled to a span of 1.
            expected = float(mine.mean() - best.mean()) / (sd + 2 * STD_FLOOR)
            assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_pass_at_k_ignores_scale_and_offset_of_the_scores():
    scores = [0.0, 1.0, 3.0, 0.0]
    moved = [1000.0 + 256.0 * score for score in scores]
    plain = credit("pass_at_k", group(scores), pass_k=2)
    assert credit("pass_at_k", group(moved), pass_k=2) == pytest.approx(plain, rel=1e-5)


def test_remax_subtracts_the_greedy_rollout():
    batch = group([0.25, 1.0, 0.0])
    assert credit("remax", batch) == [0.0, 0.75, -0.25]
    demo = replace(batch[1], off=True)
    assert credit("remax", [*batch, demo]) == [0.0, 0.75, -0.25, 0.75]


def test_remax_refuses_a_prompt_without_a_greedy_rollout():
    batch = [*group([1.0, 0.0]), *[replace(row, greedy=False) for row in group([1.0, 0.0], prompt=7)]]
    with pytest.raises(UserError, match=r"algorithm.adv_estimator: .* 1 prompts .* as 7; sample one greedy rollout"):
        credit("remax", batch)
    rows = pack(batch)
    del rows.fields["greedy"]
    with pytest.raises(UserError, match="2 prompts"):
        ESTIMATORS.get("remax")(rows, CreditSettings())


def test_remax_refuses_a_greedy_rollout_that_carries_no_score():
    """Its score stands on a trained token; without one it would be a silent baseline of 0."""
    first, *others = group([1.0, 0.5])
    with pytest.raises(UserError, match="no score"):
        credit("remax", [replace(first, trained=(False, False)), *others])


def test_remax_gives_nothing_where_the_greedy_rollout_failed_and_the_score_where_only_demonstrations_are_left():
    first, *others = group([1.0, 0.5, 0.0])
    assert credit("remax", [replace(first, valid=False), *others]) == [0.0, 0.0, 0.0]
    assert credit("remax", group([1.0], demos=1)) == [1.0]


def test_prefix_weights_act_token_by_token():
    rows = pack([Row(0, (True,) * 3, (0.0,) * 3, (0.0,) * 3)]).with_tokens(off=torch.tensor([True, True, False]))
    before = Credit(torch.tensor([1.0, -2.0, 4.0]), torch.tensor([7.0, 8.0, 9.0]))
    after = weigh_prefix(rows, before, alpha=0.5, beta=3.0)
    assert after.advantage.tolist() == [0.5, -1.0, 12.0]
    assert after.returns is before.returns
    assert weigh_prefix(rows, before) is before


def test_the_examples_of_the_modules_hold():
    for module in (package, group_module, pass_at_k, prefix_weight, remax, returns, whiten):
        result = doctest.testmod(module)
        assert result.failed == 0, module
        assert result.attempted > 0, module
