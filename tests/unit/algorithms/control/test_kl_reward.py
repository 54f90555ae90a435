"""KL as a penalty in the reward: where it falls, where the score stands, what is measured.

Not covered: the formulas of the KL estimators, which are arguments here; `test_kl_reward_estimators.py` has those.
"""

import doctest
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.algorithms import kl_reward as module
from hpt_megatron.algorithms.kl_control import DoubleHalve, KlSettings
from hpt_megatron.algorithms.kl_reward import kl_reward, score_on_last
from hpt_megatron.protocol.rows import Rows

NAN = math.nan


def square(logp, ref_logp):
    return 0.5 * (logp - ref_logp) ** 2


# Four rows: two rollouts (the second with an observation in the middle), a demonstration, and a row that goes on from
# two tokens of one. The first token of each is the prompt's.
ROWS = Rows.from_lists(
    {
        "trained": [[0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 1], [0, 1, 1, 1]],
        "off": [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1], [0, 1, 1, 0]],
    },
    score=[1.0, -0.5, 2.0, 4.0],
    valid=[True, True, True, True],
)
ROWS = ROWS.with_tokens(trained=ROWS.tokens["trained"].bool(), off=ROWS.tokens["off"].bool())
LOGP = torch.tensor([NAN, -1.0, -2.0, -3.0, NAN, -1.0, NAN, -1.0, NAN, -8.0, -9.0, NAN, -5.0, -5.0, -1.0])
REF = torch.tensor([NAN, -1.5, -2.0, -2.0, NAN, -2.0, NAN, -4.0, NAN, -1.0, -1.0, NAN, -1.0, -1.0, -3.0])


def mean(metrics, name) -> float:
    total, count = metrics[name]
    return (total / count).item()


def test_the_example_of_the_module_holds():
    result = doctest.testmod(module)
    assert (result.failed, result.attempted) == (0, 3)


def test_kl_falls_on_the_policys_own_trained_tokens_and_the_score_on_the_last():
    """k1: 0.5, 0, -1 in the first row, 1 and 3 in the second, 2 on the last token of the fourth."""
    made = kl_reward(ROWS, LOGP, REF, beta=0.1, estimator=torch.sub)
    expected = [0, -0.05, 0, 0.1 + 1.0, 0, -0.1, 0, -0.3 - 0.5, 0, 0, 2.0, 0, 0, 0, -0.2 + 4.0]
    assert made.reward.tolist() == pytest.approx(expected, abs=1e-6)


def test_three_means_of_the_same_kl_are_measured():
    """Rows sum to -0.5, 4 and 2 over 3, 2 and 1 tokens; the demonstration has none."""
    metrics = kl_reward(ROWS, LOGP, REF, beta=0.1, estimator=torch.sub).metrics
    assert {name: (total.item(), count.item()) for name, (total, count) in metrics.items()} == {
        "kl/sequence": (5.5, 3),
        "kl/mean": (5.5, 6),
        "critic/kl": (pytest.approx(-0.5 / 3 + 2 + 2), 3),
        "kl/not_finite": (0, 1),
    }


def test_the_mean_per_sequence_is_what_a_controller_with_a_target_of_six_follows():
    rows = Rows.from_lists({"trained": [[True] * 20] * 2, "off": [[False] * 20] * 2}, score=[0.0] * 2, valid=[True] * 2)
    metrics = kl_reward(rows, torch.zeros(40), torch.full((40,), -0.5), beta=0.1, estimator=torch.sub).metrics
    control = DoubleHalve(KlSettings(kl_coef=0.1))
    total, count = metrics["kl/sequence"]
    control.observe((total / count).item(), int(count))
    assert (mean(metrics, "kl/sequence"), mean(metrics, "kl/mean"), control.coefficient) == (10.0, 0.5, 0.2)


def test_demonstrations_pay_for_kl_only_when_asked_to():
    made = kl_reward(ROWS, LOGP, REF, beta=0.1, estimator=torch.sub, on_demonstrations=True)
    expected = [0.7, 0.8 + 2.0, 0, 0.4, 0.4, -0.2 + 4.0]  # k1: -7, -8; -4, -4, 2
    assert made.reward[9:].tolist() == pytest.approx(expected, abs=1e-6)
    assert [count.item() for _, count in made.metrics.values()] == [4, 10, 4, 1]


def test_a_coefficient_of_zero_leaves_the_score_alone():
    made = kl_reward(ROWS, LOGP, REF, beta=0.0, estimator=square)
    assert torch.equal(made.reward, score_on_last(ROWS))
    assert made.reward.nonzero().flatten().tolist() == [3, 7, 10, 14]
    assert mean(made.metrics, "kl/mean") > 0  # it is measured all the same


def test_a_row_that_is_not_valid_earns_nothing_and_is_not_measured():
    broken = ROWS.with_fields(valid=torch.tensor([True, False, True, True]))
    made = kl_reward(broken, LOGP, REF, beta=0.1, estimator=torch.sub)
    assert made.reward[4:8].tolist() == [0, 0, 0, 0]
    assert made.metrics["kl/sequence"][0].item() == 1.5
    assert made.metrics["kl/sequence"][1].item() == 2


def test_a_row_without_a_trained_token_earns_nothing():
    rows = Rows.from_lists(
        {"trained": [[False, False], [False, True]], "off": [[False] * 2] * 2}, score=[5.0, 1.0], valid=[True] * 2
    )
    made = kl_reward(rows, torch.zeros(4), torch.ones(4), beta=1.0, estimator=square)
    assert made.reward.tolist() == [0, 0, 0, 0.5]


@pytest.mark.parametrize("broken", [NAN, math.inf, -math.inf])
def test_a_kl_that_is_not_finite_costs_nothing_and_is_counted(broken):
    ref = REF.clone()
    ref[1] = broken
    made = kl_reward(ROWS, LOGP, ref, beta=0.1, estimator=torch.sub)
    assert made.reward[1].item() == 0
    assert made.metrics["kl/not_finite"][0].item() == 1
    assert made.metrics["kl/mean"][0].item() == 5.0
    assert made.metrics["kl/mean"][1].item() == 5


def test_no_rows_make_no_reward():
    none = ROWS.select(torch.zeros(4, dtype=torch.bool))
    made = kl_reward(none, LOGP[:0], REF[:0], beta=0.1, estimator=torch.sub)
    assert made.reward.shape == (0,)
    assert [total.item() for total, _ in made.metrics.values()] == [0, 0, 0, 0]


def test_what_is_not_counted_never_reaches_the_estimator():
    seen = []

    def watching(logp, ref_logp):
        seen.extend([logp, ref_logp])
        return logp - ref_logp

    kl_reward(ROWS, LOGP, REF, beta=0.1, estimator=watching)
    assert [column.nonzero().flatten().tolist() for column in seen] == [[1, 2, 3, 5, 7, 14]] * 2
    assert all(torch.isfinite(column).all() for column in seen)


@st.composite
def some_rows(draw):
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    flags = [[draw(st.tuples(st.booleans(), st.booleans())) for _ in range(length)] for length in lengths]
    rows = Rows.from_lists(
        {"trained": [[t for t, _ in row] for row in flags], "off": [[o for _, o in row] for row in flags]},
        score=draw(st.lists(st.floats(-5, 5, width=32), min_size=len(lengths), max_size=len(lengths))),
        valid=draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))),
    )
    numbers = st.floats(-20, 0, width=32) | st.sampled_from([NAN, -math.inf])
    columns = [draw(st.lists(numbers, min_size=rows.num_tokens, max_size=rows.num_tokens)) for _ in range(2)]
    return rows, torch.tensor(columns[0]), torch.tensor(columns[1])


@given(some_rows(), st.floats(0, 1), st.booleans())
def test_every_reward_is_finite_and_falls_on_valid_trained_tokens_alone(drawn, beta, on_demonstrations):
    rows, logp, ref = drawn
    made = kl_reward(rows, logp, ref, beta=beta, estimator=square, on_demonstrations=on_demonstrations)
    assert torch.isfinite(made.reward).all()
    outside = ~(rows.tokens["trained"] & rows.per_token(rows.fields["valid"]))
    assert (made.reward[outside] == 0).all()
    penalty = score_on_last(rows) - made.reward
    assert (penalty >= 0).all()
    assert on_demonstrations or (penalty[rows.tokens["off"]] == 0).all()
    # What a row earns in all is its score minus beta times its KL.
    placed = rows.fields["valid"] & (rows.row_sum(rows.tokens["trained"].float()) > 0)
    earned = rows.row_sum(made.reward) + rows.row_sum(penalty)
    assert earned.tolist() == pytest.approx(torch.where(placed, rows.fields["score"], 0.0).tolist(), abs=1e-3)
    assert beta * made.metrics["kl/mean"][0].item() == pytest.approx(penalty.sum().item(), rel=1e-4, abs=1e-4)


@given(some_rows(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(drawn, random):
    rows, logp, ref = drawn
    order = torch.tensor(random.sample(range(rows.num_rows), rows.num_rows))
    both = rows.with_tokens(logp=logp, ref=ref)
    moved = both.select(order)
    made = kl_reward(rows, logp, ref, beta=0.3, estimator=square)
    again = kl_reward(moved, moved.tokens["logp"], moved.tokens["ref"], beta=0.3, estimator=square)
    assert torch.equal(rows.with_tokens(reward=made.reward).select(order).tokens["reward"], again.reward)
    for name, (total, count) in made.metrics.items():
        assert again.metrics[name][1] == count
        assert again.metrics[name][0].item() == pytest.approx(total.item(), rel=1e-5, abs=1e-6)


@given(some_rows(), st.integers(0, 6))
def test_the_metrics_of_parts_add_up_to_those_of_the_whole(drawn, cut):
    """As they do over devices."""
    rows, logp, ref = drawn
    rows = rows.with_tokens(logp=logp, ref=ref)
    index = torch.arange(rows.num_rows)
    parts = [rows.select(index[:cut]), rows.select(index[cut:])]

    def measured(some):
        return kl_reward(some, some.tokens["logp"], some.tokens["ref"], beta=0.1, estimator=square).metrics

    whole, halves = measured(rows), [measured(part) for part in parts]
    for name in ("kl/sequence", "kl/mean", "critic/kl"):
        total, count = (sum(half[name][i].item() for half in halves) for i in range(2))
        assert whole[name][1].item() == count
        assert whole[name][0].item() == pytest.approx(total, rel=1e-4, abs=1e-4)
