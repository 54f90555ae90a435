"""Orders of prompts, and that a resumed one goes on exactly. Not covered: whether a curriculum helps a model."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.data.samplers import BySuccess, Hard, Shuffled, Staged, stages_of
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast

NAMES = [f"p{number}" for number in range(12)]
DIFFICULTY = {name: float(number) for number, name in enumerate(NAMES[:10])}
KINDS = {
    "shuffled": lambda seed: Shuffled(NAMES, seed),
    "staged": lambda seed: Staged(NAMES, seed, DIFFICULTY, 3),
    "by_success": lambda seed: BySuccess(NAMES, seed, DIFFICULTY, 3, 0.5),
    "hard": lambda seed: Hard(NAMES, seed),
}


def step(sampler, action):
    kind, value = action
    if kind == "take":
        return sampler.take(value)
    if kind == "observe":
        chance = random.Random(value)
        return sampler.observe({name: chance.random() for name in chance.sample(NAMES, 4)})
    return sampler.remove([NAMES[value]])


ACTIONS = st.one_of(
    st.tuples(st.just("take"), st.integers(1, 6)),
    st.tuples(st.just("observe"), st.integers(0, 99)),
    st.tuples(st.just("remove"), st.integers(0, 5)),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(st.lists(ACTIONS, max_size=25), st.integers(0, 25), st.integers(0, 3))
def test_a_resumed_sampler_gives_exactly_what_would_have_come(kind, actions, cut, seed):
    """At any place, so at the edges of epochs too; through JSON, as a checkpoint does it; into a fresh sampler."""
    whole, resumed = KINDS[kind](seed), KINDS[kind](seed + 1)
    for action in actions[:cut]:
        step(whole, action)
    resumed.restore(json.loads(json.dumps(whole.state())))
    for action in [*actions[cut:], ("take", 6)]:
        assert step(whole, action) == step(resumed, action)
        assert whole.counts() == resumed.counts()
    assert whole.state() == resumed.state()


def test_an_epoch_takes_every_prompt_once_and_the_next_in_another_order():
    order = Shuffled(NAMES, 0)
    first, second = order.take(6) + order.take(6), order.take(12)
    assert sorted(first) == sorted(second) == sorted(NAMES)
    assert first != second
    assert Shuffled(NAMES, 0).take(12) == first != Shuffled(NAMES, 1).take(12)


def test_what_does_not_fill_a_batch_is_left_out():
    order = Shuffled(NAMES, 0)
    order.take(5), order.take(5)
    assert order.epoch == 0
    assert len(set(order.take(5))) == 5
    assert (order.epoch, order.taken) == (1, 5)


def test_the_state_at_the_end_of_an_epoch_goes_on_with_the_next():
    order, other = Shuffled(NAMES, 0), Shuffled(NAMES, 0)
    order.take(12)
    other.restore(order.state())
    assert other.take(12) == order.take(12)
    assert other.epoch == 1


def test_a_removed_prompt_goes_with_the_next_epoch_and_never_returns():
    order = Shuffled(NAMES, 0)
    first = order.take(6)
    later = next(name for name in NAMES if name not in first)
    order.remove([later, "unknown"])
    assert later in order.take(6)
    for _ in range(3):
        assert later not in order.take(11)
    with pytest.raises(UserError, match="11 prompts are left, a batch takes 12"):
        order.take(12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_removal_that_leaves_less_than_a_batch_waits_until_it_does_not(kind):
    """A run whose prompts were all imitated would end for want of a batch; it goes on with all of them instead."""
    order = KINDS[kind](0)
    order.take(6)
    order.remove(NAMES[:7])
    again = KINDS[kind](1)
    again.restore(json.loads(json.dumps(order.state())))
    for _ in range(4):
        found = order.take(6)
        assert len(set(found)) == 6
        assert found == again.take(6)
    order.take(5), order.take(5)  # the epoch in which it waited ends
    assert set(order.take(5)) == set(NAMES[7:])


def test_a_state_of_other_prompts_or_of_another_sampler_is_refused():
    with pytest.raises(UserError, match="not those of the saved run"):
        Shuffled(NAMES[:-1], 0).restore(Shuffled(NAMES, 0).state())
    for one in KINDS:
        for other in KINDS:
            if one != other:
                fresh = KINDS[other](0)
                with pytest.raises(UserError, match=f"the saved run took prompts by '{one}', this one by '{other}'"):
                    fresh.restore(KINDS[one](1).state())
                assert fresh.state() == KINDS[other](0).state(), "nothing of it was taken"
    with pytest.raises(UserError, match="two prompts have one name"):
        Shuffled(["a", "a"], 0)


def test_stages_are_of_equal_size_from_easy_to_hard_and_what_is_unknown_is_hard():
    stages = stages_of(NAMES, DIFFICULTY, 2)
    assert [stages[name] for name in NAMES] == [0] * 5 + [1] * 7
    order = Staged(NAMES, 0, DIFFICULTY, 2)
    assert set(order.take(5)) == set(NAMES[:5])
    assert order.counts()["data/stage"] == 0
    order.take(7)
    assert order.counts()["data/stage"] == 1
    assert stages_of(NAMES, {}, 2) == dict.fromkeys(NAMES, 1)


def test_the_next_stage_opens_when_this_one_is_solved():
    order = BySuccess(NAMES, 0, DIFFICULTY, 3, promote_at=0.6)
    easy = set(order.take(4))
    assert easy == set(NAMES[:4])
    order.observe(dict.fromkeys(easy, 0.3))
    assert set(order.take(4)) == easy
    order.observe(dict.fromkeys(easy, 0.9))
    assert order.take(4)
    assert order.counts()["data/stage"] == 1
    assert set(order._order) == set(NAMES[:7])


def test_a_stage_that_is_never_solved_does_not_hold_up_the_rest():
    order = BySuccess(NAMES, 0, DIFFICULTY, 3, promote_at=0.6)
    for _ in range(10):
        order.observe(dict.fromkeys(order.take(4), 0.0))
    assert order.open == 2


def test_stages_too_small_for_a_batch_are_opened_together():
    order = BySuccess(NAMES, 0, DIFFICULTY, 3, promote_at=0.6)
    assert len(set(order.take(9))) == 9
    assert order.open == 2


def test_hard_prompts_come_more_often_and_solved_ones_still_come():
    order = Hard(NAMES, 0)
    order.observe({name: 1.0 if number < 6 else 0.0 for number, name in enumerate(NAMES)})
    drawn = [name for _ in range(300) for name in order.take(3)]
    hard = sum(name in NAMES[6:] for name in drawn) / len(drawn)
    assert hard > 0.8
    assert set(drawn) == set(NAMES)
    counts = order.counts()
    assert counts["data/hardness_drawn"] > counts["data/hardness_all"]


def test_the_history_of_a_prompt_is_a_moving_average_and_a_removed_one_goes_at_once():
    order = Hard(NAMES, 0)
    order.observe({"p0": 1.0})
    order.observe({"p0": 0.0})
    assert order.weight("p0") == 0.5
    assert order.weight("p1") == 1.0
    order.remove(["p0"])
    assert "p0" not in order.take(11)
