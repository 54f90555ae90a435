"""Numbers of replicas and of rounds as one: means by rows, counts added up, extremes and seconds by what they are."""

import doctest

import pytest

from hpt_megatron.driver.loop import joined
from hpt_megatron.driver.loop.joined import over_replicas, over_rounds

pytestmark = pytest.mark.fast
FIRST = {"reward/mean": 1.0, "reward/flag/no_answer": 2.0, "timing_s/reward": 0.5, "judge/requests": 7.0}
SECOND = {"reward/mean": 0.0, "reward/flag/no_answer": 1.0, "timing_s/reward": 0.2, "judge/requests": 9.0}


def test_replicas_share_a_step():
    told = over_replicas([(6, {**FIRST, "agent/turns_max": 3.0}), (2, {**SECOND, "agent/turns_max": 5.0})])
    assert told["reward/mean"] == 0.75
    assert told["reward/flag/no_answer"] == 3.0, "an event is an event, whichever replica saw it"
    assert told["timing_s/reward"] == 0.5, "they waited side by side"
    assert told["judge/requests"] == 16.0, "each has a judge of its own"
    assert told["agent/turns_max"] == 5.0


def test_rounds_come_one_by_one():
    told = over_rounds([(6, FIRST), (2, SECOND)])
    assert told["reward/mean"] == 0.75
    assert told["reward/flag/no_answer"] == 3.0
    assert told["timing_s/reward"] == pytest.approx(0.7)
    assert told["judge/requests"] == 9.0, "the counter went on"


def test_a_number_that_only_some_tell_is_of_those():
    told = over_replicas([(4, {"reward/mean": 0.5}), (4, {}), (0, {"agent/recall": 0.25})])
    assert told == {"reward/mean": 0.5, "agent/recall": 0.25}


def test_the_example_of_the_module_holds():
    result = doctest.testmod(joined)
    assert (result.failed, result.attempted) == (0, 2)
