"""Length penalties, truncated rows, and the credit of prefixes.

Not covered: when in a step each is applied; that is the recipe's.
"""

import doctest

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.algorithms import shaping
from hpt_megatron.algorithms.credit.estimator import Credit
from hpt_megatron.algorithms.normalize.streams import Coefficients, streams
from hpt_megatron.algorithms.shaping import (
    Overlong,
    overlong_penalty,
    response_lengths,
    sft_prefix_credit,
    treat_truncated,
    truncated,
)
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.rows import Rows

EOS, LIMIT = 2, 4
# Each row: two prompt tokens (the end token among them), then the response.
ENDED, SHORT, CUT, TURNS = [5, 6, 7, EOS], [5, 6], [5, 6, 7, 8], [5, EOS, 7, 8]


def rows_of(*responses, prefix: int = 0) -> Rows:
    """Rows whose prompt holds a stop token too; the first `prefix` tokens of each response are a demonstration's."""
    ids = [[9, EOS, *response] for response in responses]
    response = [[False, False] + [True] * len(response) for response in responses]
    off = [[False, False] + [i < prefix for i in range(len(response))] for response in responses]
    return Rows.from_lists(
        {"ids": ids, "response": response, "trained": response, "off": off},
        valid=[True] * len(responses),
        mix_on=[1.0] * len(responses),
        mix_off=[0.0] * len(responses),
        mix_sft=[1.0] * len(responses),
    )


def test_the_example_of_the_module_holds():
    result = doctest.testmod(shaping)
    assert (result.failed, result.attempted) == (0, 1)


def test_the_overlong_penalty_of_dapo_has_its_worked_values():
    """L 20,480 and a buffer of 4,096, as in the paper."""
    lengths = torch.tensor([0, 16_384, 16_385, 17_408, 18_432, 20_479, 20_480, 20_481, 1_000_000])
    expected = [0, 0, -1 / 4096, -0.25, -0.5, -4095 / 4096, -1, -1, -1]
    assert overlong_penalty(lengths, Overlong(max_length=20_480, buffer=4_096)).tolist() == expected
    half = Overlong(max_length=20_480, buffer=4_096, factor=0.5)
    assert overlong_penalty(lengths, half).tolist() == [0.5 * value for value in expected]


def test_a_buffer_of_zero_is_a_step_behind_the_limit_and_a_whole_one_a_slope():
    lengths = torch.tensor([0, 1, 50, 99, 100, 101])
    assert overlong_penalty(lengths, Overlong(max_length=100, buffer=0)).tolist() == [0, 0, 0, 0, 0, -1]
    slope = overlong_penalty(lengths, Overlong(max_length=100, buffer=100)).tolist()
    assert slope == pytest.approx([0, -0.01, -0.5, -0.99, -1, -1])


@pytest.mark.parametrize("changed", [{"buffer": -1}, {"buffer": 101}, {"max_length": 0, "buffer": 0}, {"factor": -1.0}])
def test_penalties_that_make_no_sense_are_refused(changed):
    with pytest.raises(UserError, match="overlong"):
        Overlong(**{"max_length": 100, "buffer": 10, **changed})


@given(
    st.integers(1, 10_000).flatmap(lambda most: st.tuples(st.just(most), st.integers(0, most))),
    st.lists(st.integers(0, 20_000), min_size=2),
    st.floats(0, 4),
)
def test_the_penalty_stays_in_its_range_and_never_grows_with_the_length(sizes, lengths, factor):
    most, buffer = sizes
    penalty = overlong_penalty(torch.tensor(sorted(lengths)), Overlong(max_length=most, buffer=buffer, factor=factor))
    assert ((-factor * (1 + 1e-6) <= penalty) & (penalty <= 0)).all()
    assert (penalty.diff() <= 0).all()
    assert (penalty[torch.tensor(sorted(lengths)) <= most - buffer] == 0).all()


def test_a_row_is_truncated_when_it_fills_the_limit_and_does_not_end():
    rows = rows_of(ENDED, SHORT, CUT, [5, 6, 7, 3])
    assert response_lengths(rows).tolist() == [4, 2, 4, 4]
    assert truncated(rows, LIMIT, [EOS]).tolist() == [False, False, True, True]
    assert truncated(rows, LIMIT, [EOS, 3]).tolist() == [False, False, True, False]
    assert truncated(rows, LIMIT + 1, [EOS]).tolist() == [False] * 4


def test_a_stop_token_of_an_earlier_turn_does_not_save_a_row():
    """In the released code it does. The prompt's stop token saves none in either."""
    assert truncated(rows_of(TURNS), LIMIT, [EOS]).tolist() == [True]


def test_a_demonstration_that_lost_its_end_is_truncated_too():
    assert truncated(rows_of(CUT, ENDED, prefix=4), LIMIT, [EOS]).tolist() == [True, False]


def test_a_row_without_a_response_is_not_truncated():
    assert truncated(rows_of([], CUT), LIMIT, [EOS]).tolist() == [False, True]
    assert truncated(rows_of([]), 0, [EOS]).tolist() == [False]


def credit_of(rows: Rows, value: float) -> Credit:
    return Credit(torch.where(rows.tokens["trained"], value, 0.0), torch.ones(rows.num_tokens))


def treated(how: str):
    rows = rows_of(ENDED, CUT)
    credit = credit_of(rows, 0.75)
    return rows, credit, *treat_truncated(rows, credit, truncated(rows, LIMIT, [EOS]), how)


def test_keep_changes_nothing():
    rows, credit, after, left = treated("keep")
    assert after is rows
    assert left is credit


def test_zero_credit_takes_the_credit_and_keeps_the_row_in_every_denominator():
    _, _, after, credit = treated("zero_credit")
    assert credit.advantage.tolist() == [0, 0] + [0.75] * 4 + [0] * 6
    assert credit.returns.tolist() == [1] * 12
    weights = streams(after, Coefficients(entropy=1.0))
    assert (weights["rl"] != 0).sum() == (weights["entropy"] != 0).sum() == 8


def test_mask_takes_the_row_out_of_every_component_and_denominator():
    rows, _, after, credit = treated("mask")
    assert credit.advantage.tolist() == [0, 0] + [0.75] * 4 + [0] * 6
    assert credit.returns.tolist() == [1] * 12
    weights = streams(after, Coefficients(entropy=1.0, kl=1.0, value=1.0))
    assert [int((weights[name] != 0).sum()) for name in ("rl", "entropy", "kl", "value")] == [4, 4, 4, 4]
    assert rows.tokens["trained"].sum() == 8  # the rows that came in are untouched


def test_an_unknown_treatment_is_refused_by_listing_the_known_ones():
    with pytest.raises(UserError, match="no such treatment: drop; one of keep, zero_credit, mask"):
        treated("drop")


@given(
    st.lists(st.lists(st.integers(2, 6), max_size=6), min_size=1, max_size=6),
    st.sampled_from(["keep", "zero_credit", "mask"]),
    st.integers(1, 6),
)
def test_rows_that_are_not_truncated_are_left_bit_for_bit(responses, how, limit):
    rows = rows_of(*responses)
    credit = Credit(torch.arange(rows.num_tokens) / 7 * rows.tokens["trained"], torch.ones(rows.num_tokens))
    cut = truncated(rows, limit, [EOS])
    assert cut.tolist() == [len(r) >= limit and r[-1] != EOS for r in responses]
    after, made = treat_truncated(rows, credit, cut, how)
    left = ~rows.per_token(cut)
    assert torch.equal(made.advantage[left], credit.advantage[left])
    assert torch.equal(after.tokens["trained"][left], rows.tokens["trained"][left])
    assert how == "keep" or (made.advantage[~left] == 0).all()


def test_a_prefix_gets_its_share_of_the_weight_and_the_rest_of_the_row_its_credit():
    rows = rows_of([5, 6, 7, EOS], [5, 6], prefix=2)
    credit = sft_prefix_credit(rows, credit_of(rows, -0.25), weight=1.0, samples=8, n_prefix=-1)
    assert credit.advantage.tolist() == [0, 0, 0.125, 0.125, -0.25, -0.25, 0, 0, 0.125, 0.125]
    broken = rows.with_fields(valid=torch.tensor([True, False]))
    credit = sft_prefix_credit(broken, credit_of(rows, -0.25), weight=1.0, samples=8, n_prefix=-1)
    assert credit.advantage[-2:].tolist() == [-0.25] * 2


def test_the_prefix_of_a_truncated_row_keeps_its_weight():
    """The released order: truncated rows lose their credit first."""
    rows = rows_of(CUT, prefix=2)
    _, credit = treat_truncated(rows, credit_of(rows, -0.25), truncated(rows, LIMIT, [EOS]), "zero_credit")
    credit = sft_prefix_credit(rows, credit, weight=2.0, samples=4, n_prefix=-1)
    assert credit.advantage.tolist() == [0, 0, 0.5, 0.5, 0, 0]


@pytest.mark.parametrize("n_prefix", [0, 1, 8])
def test_the_weight_of_prefixes_is_refused_unless_every_row_has_one(n_prefix):
    rows = rows_of(CUT)
    with pytest.raises(UserError, match="use_sft_prefix_reward=false"):
        sft_prefix_credit(rows, credit_of(rows, 1.0), weight=1.0, samples=8, n_prefix=n_prefix)
