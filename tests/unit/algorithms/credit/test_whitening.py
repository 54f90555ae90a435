"""Whitening: mean 0 and standard deviation 1 over what counts, without trouble at the edges."""

import pytest
import torch
from credit_rows import group, pack
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, CreditSettings
from hpt_megatron.algorithms.credit.whiten import WHITEN_FLOOR, divisor, moments, whiten, whiten_advantage

numbers = st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=50)
few = settings(max_examples=50, derandomize=True)


@given(values=numbers)
@few
def test_moments_are_those_of_double_precision(values):
    column = torch.tensor(values)
    mean, std = moments(column, torch.ones(len(values), dtype=torch.bool))
    exact = column.double()
    assert float(mean) == pytest.approx(float(exact.mean()), rel=1e-12, abs=1e-9)
    assert float(std) == pytest.approx(float(exact.std()), rel=1e-6, abs=1e-6 * float(exact.abs().max()) + 1e-30)


def test_the_mean_is_0_and_the_std_is_1_also_far_from_0():
    """Near ten million float32 counts in whole numbers; the fraction of the mean must not be lost."""
    column = 1e7 + torch.arange(1000, dtype=torch.float32) % 4
    found = whiten(column, torch.ones(1000, dtype=torch.bool)).double()
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(found.std()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e6, 1e30])
def test_a_constant_batch_becomes_0(value, dtype):
    column = torch.full((777,), value, dtype=dtype)
    found = whiten(column, torch.ones(777, dtype=torch.bool))
    assert found.dtype == dtype
    limit = 0.0 if dtype == torch.float32 else 1e-9
    if abs(value) < 1e7:  # in float64 a sum of 1e30 has no room for its own last digits
        assert float(found.abs().max()) <= limit
    assert bool(found.isfinite().all())


def test_what_is_not_counted_is_moved_along_and_moves_nothing():
    column, counted = torch.tensor([1.0, 3.0, 100.0]), torch.tensor([True, True, False])
    found = whiten(column, counted)
    assert found[:2].tolist() == whiten(column[:2], counted[:2]).tolist()
    assert float(found[2]) == pytest.approx(98.0 / 2.0**0.5)
    unknown = whiten(torch.tensor([1.0, 3.0, float("nan")]), counted)
    assert unknown[:2].tolist() == found[:2].tolist()


def test_beside_a_constant_batch_the_plain_distance_is_left():
    found = whiten(torch.tensor([1.0, 1.0, 3.0]), torch.tensor([True, True, False]))
    assert found.tolist() == pytest.approx([0.0, 0.0, 2.0])


def test_without_anything_counted_nothing_changes():
    column = torch.tensor([1.0, -5.0])
    assert whiten(column, torch.zeros(2, dtype=torch.bool)).tolist() == column.tolist()
    assert whiten(column[:0], torch.zeros(0, dtype=torch.bool)).tolist() == []


def test_a_std_at_the_floor_counts_as_zero():
    std = torch.tensor([0.0, WHITEN_FLOOR, 2 * WHITEN_FLOOR, 1.0], dtype=torch.float64)
    expected = [1.0 + WHITEN_FLOOR, 1.0 + WHITEN_FLOOR, 3 * WHITEN_FLOOR, 1.0 + WHITEN_FLOOR]
    assert divisor(std, WHITEN_FLOOR).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["gae", "grpo", "reinforce"])
def test_any_advantage_can_be_whitened_after_its_estimator(name):
    """The demonstration is left out of the statistics unless it is included; returns stay what they are."""
    rows = pack([*group([9.0, 1.0, 0.0, 0.0], demos=1, tokens=3), *group([1.0, 0.5], prompt=1)])
    del rows.fields["greedy"]
    for include_demo in (False, True):
        chosen = CreditSettings(include_demo=include_demo)
        before = ESTIMATORS.get(name)(rows, chosen)
        after = whiten_advantage(rows, before, chosen)
        counted = after.advantage[rows.tokens["trained"] & (include_demo | ~rows.tokens["off"])].double()
        assert float(counted.mean()) == pytest.approx(0.0, abs=1e-6)
        assert float(counted.std()) == pytest.approx(1.0, abs=1e-6)
        assert after.returns is before.returns


def test_the_greedy_baseline_of_remax_keeps_its_0_and_moves_no_statistic():
    rows = pack(group([0.5, 1.0, 1.0, 0.0, 0.0, 0.0], tokens=1))  # the first one is greedy
    before = ESTIMATORS.get("remax")(rows, CreditSettings())
    after = whiten_advantage(rows, before, CreditSettings()).advantage
    assert before.advantage.tolist() == [0.0, 0.5, 0.5, -0.5, -0.5, -0.5]
    assert after[0] == 0.0
    assert float(after[1:].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(after[1:].std()) == pytest.approx(1.0, abs=1e-6)
