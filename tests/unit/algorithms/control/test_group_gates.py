"""Gates on groups, and the refill that draws until enough groups are admitted.

Not covered: who draws the prompts; that is the loop's.
"""

import doctest
import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.algorithms import gates
from hpt_megatron.algorithms.gates import (
    Group,
    MinimumValid,
    Mixed,
    Refill,
    RefillSettings,
    Spread,
    SuccessRate,
    TruncatedShare,
    judge,
    rejected_by,
)
from hpt_megatron.algorithms.routing.decision import Outcome, route
from hpt_megatron.algorithms.routing.plain import Plain
from hpt_megatron.algorithms.routing.switch import Switch
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast

ALL = (MinimumValid(), SuccessRate(0.0, 1.0), TruncatedShare(0.5), Spread())
SCORES = st.floats(-10, 10) | st.sampled_from([0.0, 1.0])
ROLLOUT = st.tuples(SCORES, st.booleans(), st.booleans(), st.booleans())
VERDICTS = st.lists(st.sampled_from([None, None, "spread", "minimum_valid"]), max_size=12)


def group_of(rollouts) -> Group:
    scores, success, truncated, valid = zip(*rollouts, strict=True) if rollouts else ((), (), (), ())
    return Group.of(scores, success, truncated, valid)


def of_k(k: int, n: int = 8) -> Group:
    scores = [1.0] * k + [0.0] * (n - k)
    return Group.of(scores, [score == 1.0 for score in scores])


def test_the_example_of_the_module_holds():
    result = doctest.testmod(gates)
    assert (result.failed, result.attempted) == (0, 6)


def test_a_group_counts_its_valid_rollouts_alone():
    group = Group.of([0.5, 9.0, -1.0], [True, True, False], [True, True, False], [True, False, True])
    assert group == Group(n=2, k=1, lowest=-1.0, highest=0.5, truncated=1)
    assert Group.of([], []) == Group(n=0, k=0, lowest=0.0, highest=0.0)


def test_only_groups_that_explore_are_judged_and_what_is_skipped_is_replaced():
    """Under switch no prompt without success would be left to imitate if it were judged."""
    outcomes = [Outcome(8, 0), Outcome(8, 0, has_target=False), Outcome(8, 3), Outcome(8, 8), Outcome(0, 0)]
    groups = [of_k(outcome.k, outcome.n) for outcome in outcomes]
    keep, drop = (route(Switch(), outcomes, 0, treatment).decisions for treatment in ("keep", "drop"))
    assert judge((Mixed(),), groups, keep) == [None, "mixed", None, "mixed", "skipped"]
    assert judge((Mixed(),), groups, drop) == [None, "skipped", None, "mixed", "skipped"]
    assert judge((Mixed(),), groups, route(Plain(n_prefix=1), outcomes, 0).decisions)[:2] == [None, "mixed"]
    assert judge((), groups, keep) == [None, None, None, None, "skipped"]
    assert Refill(RefillSettings(wanted=2, max_rounds=3, max_draw=8)).record(judge((Mixed(),), groups, keep)) == [0, 2]


def test_dynamic_sampling_refuses_groups_whose_scores_are_all_equal():
    """With rewards of 0 and 1 that is DAPO's 0 < k < n."""
    assert [Spread().admits(of_k(k)) for k in range(9)] == [False] + [True] * 7 + [False]
    assert not Spread().admits(Group.of([-0.5] * 4, [False] * 4))
    assert Spread().admits(Group.of([-0.5, -1.0], [False, False]))  # all wrong, and still not alike
    assert not Spread(above=0.5).admits(Group.of([-0.5, -1.0], [False, False]))
    assert not Spread().admits(Group.of([math.nan, 1.0], [False, True]))


def test_the_window_of_success_rates_includes_both_ends():
    gate = SuccessRate(0.25, 0.75)
    assert [k for k in range(9) if gate.admits(of_k(k))] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("n", range(1, 21))
def test_every_success_rate_that_a_group_can_have_is_met_exactly(n):
    """No rounding keeps 3 of 10 out of a window that begins at 0.3."""
    for k in range(n + 1):
        assert SuccessRate(k / n, k / n).admits(of_k(k, n))
        low = float(Fraction(2 * k + 1, 2 * n)) if k < n else 1.0
        assert SuccessRate(low, 1.0).admits(of_k(k, n)) == (k == n)


def test_a_group_below_two_valid_rollouts_is_skipped():
    assert [MinimumValid().admits(Group(n, 0, 0.0, 0.0)) for n in range(4)] == [False, False, True, True]


def test_the_share_of_truncated_rollouts_is_bounded_inclusively():
    gate = TruncatedShare(0.5)
    assert [gate.admits(Group(4, 1, 0.0, 1.0, truncated)) for truncated in range(5)] == [True] * 3 + [False] * 2


def test_the_first_gate_that_refuses_gives_its_name():
    one_valid = Group.of([1.0, 0.0], [True, False], valid=[True, False])
    assert rejected_by((MinimumValid(), Spread()), one_valid) == "minimum_valid"
    assert rejected_by((Spread(), MinimumValid()), one_valid) == "spread"
    assert rejected_by((MinimumValid(), Spread()), of_k(3)) is None
    assert rejected_by((), of_k(0)) is None


@pytest.mark.parametrize("gate", [MinimumValid(0), Spread(), SuccessRate(0.0, 1.0), TruncatedShare(1.0)])
def test_no_gate_admits_an_empty_group(gate):
    assert not gate.admits(Group.of([], []))
    assert not gate.admits(Group.of([1.0, 0.0], [True, False], valid=[False, False]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SuccessRate(0.6, 0.4),
        lambda: SuccessRate(-0.1, 0.4),
        lambda: SuccessRate(0.0, 1.1),
        lambda: SuccessRate(math.nan, 1.0),
        lambda: TruncatedShare(1.5),
        lambda: TruncatedShare(math.nan),
        lambda: RefillSettings(wanted=0, max_rounds=1, max_draw=1),
        lambda: RefillSettings(wanted=1, max_rounds=0, max_draw=1),
        lambda: RefillSettings(wanted=1, max_rounds=1, max_draw=0),
        lambda: RefillSettings(wanted=1, max_rounds=1, max_draw=1, memory=1.5),
    ],
)
def test_settings_that_admit_or_draw_nothing_are_refused(make):
    with pytest.raises(UserError):
        make()


@given(st.lists(ROLLOUT, max_size=10), st.randoms(use_true_random=False))
def test_a_verdict_does_not_depend_on_the_order_of_rollouts(rollouts, random):
    shuffled = random.sample(rollouts, len(rollouts))
    assert group_of(shuffled) == group_of(rollouts)
    assert rejected_by(ALL, group_of(shuffled)) == rejected_by(ALL, group_of(rollouts))


@given(st.lists(ROLLOUT, max_size=10), st.lists(st.tuples(SCORES, st.booleans(), st.booleans(), st.just(False))))
def test_rollouts_that_are_not_valid_change_no_verdict(rollouts, broken):
    assert group_of(rollouts + broken) == group_of(rollouts)


@given(st.lists(ROLLOUT, max_size=10))
def test_a_group_is_admitted_when_every_gate_admits_it(rollouts):
    group = group_of(rollouts)
    assert (rejected_by(ALL, group) is None) == all(gate.admits(group) for gate in ALL)


def refill(**changed) -> Refill:
    return Refill(RefillSettings(**{"wanted": 8, "max_rounds": 4, "max_draw": 100, **changed}))


def test_a_step_draws_until_it_has_enough_groups():
    step = refill()
    assert (step.to_draw(), step.rate) == (8, 1.0)
    assert step.record([None, "spread", "spread", "minimum_valid", None, "spread", "spread", "spread"]) == [0, 4]
    # 2 of 8 admitted: the estimate is (2 + 1) / (8 + 1), so the 6 that are missing take 18 prompts.
    assert (step.rate, step.missing, step.to_draw()) == (1 / 3, 6, 18)
    assert step.record([None] * 7 + ["spread"] * 11) == [0, 1, 2, 3, 4, 5]
    assert (step.missing, step.to_draw(), step.rounds, step.surplus) == (0, 0, 2, 1)
    assert step.rejected == {"spread": 16, "minimum_valid": 1}


def test_a_step_gives_up_after_its_rounds_and_says_what_is_missing():
    step = refill(max_rounds=3, max_draw=16)
    drawn = []
    while step.to_draw():
        drawn.append(step.to_draw())
        step.record(["spread"] * drawn[-1])
    assert drawn == [8, 16, 16]  # the estimate asks for 72 and 200; the bound gives 16
    assert (step.missing, step.rejected) == (8, {"spread": 40})


def test_a_fraction_of_a_prompt_is_drawn_as_a_whole_one():
    step = refill(wanted=5)
    step.record([None, None, None, "spread", "spread", "spread"])
    assert (step.missing, step.rate, step.to_draw()) == (2, 4 / 7, 4)  # 3.5


def test_a_round_without_prompts_is_a_round():
    """The data may run out in the middle of a step."""
    step = refill(max_rounds=2)
    assert [step.record([]), step.record([]), step.to_draw()] == [[], [], 0]


def test_the_next_step_begins_empty_and_remembers_the_rate_a_little_less():
    step = refill(memory=0.5)
    step.record([None] * 2 + ["spread"] * 6)
    step.begin()
    assert (step.kept, step.rounds, step.surplus, step.rejected) == (0, 0, 0, {})
    assert step.rate == (0.5 * 2 + 1) / (0.5 * 8 + 1)
    assert step.to_draw() == 20
    forgetful = refill(memory=0.0)
    forgetful.record(["spread"] * 8)
    forgetful.begin()
    assert forgetful.to_draw() == 8


@given(st.lists(VERDICTS, max_size=8), st.integers(1, 10), st.integers(1, 5), st.integers(1, 20))
def test_every_group_is_counted_once_and_every_bound_holds(rounds, wanted, max_rounds, max_draw):
    step = refill(wanted=wanted, max_rounds=max_rounds, max_draw=max_draw)
    judged = 0
    for verdicts in rounds:
        asked = step.to_draw()
        assert 0 <= asked <= max_draw
        assert (asked == 0) == (step.missing == 0 or step.rounds >= max_rounds)
        assert asked == 0 or asked >= min(step.missing, max_draw)
        if asked == 0:
            break
        keep = step.record(verdicts)
        judged += len(verdicts)
        assert all(verdicts[i] is None for i in keep)
        assert 0 < step.rate <= 1
        assert step.kept + step.missing == wanted
        assert step.missing >= 0
        assert step.kept + step.surplus + sum(step.rejected.values()) == judged
    assert step.rounds <= max_rounds


@given(st.lists(st.none() | VERDICTS, max_size=8), st.lists(st.none() | VERDICTS, max_size=8))
def test_a_refill_that_loads_a_state_through_json_continues_the_same(first, then):
    """None stands for the beginning of a step."""
    one, other = refill(), refill()

    def play(step, events):
        return [step.begin() if event is None else step.record(event) for event in events]

    play(one, first)
    other.load_state_dict(json.loads(json.dumps(one.state_dict(), allow_nan=False)))
    assert other.to_draw() == one.to_draw()
    assert play(one, then) == play(other, then)
    assert (one.state_dict(), one.to_draw(), one.rate) == (other.state_dict(), other.to_draw(), other.rate)


def test_a_state_is_a_copy():
    step = refill()
    step.record(["spread"])
    state = step.state_dict()
    step.record(["spread"])
    assert state["rejected"] == {"spread": 1}


def test_fewer_groups_wanted_on_resume_are_enough():
    step, smaller = refill(), refill(wanted=3)
    step.record([None] * 5)
    smaller.load_state_dict(step.state_dict())
    assert (smaller.missing, smaller.to_draw()) == (0, 0)
