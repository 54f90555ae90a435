"""The learning rate of every step, by value."""

import doctest
import math

import pytest

from hpt_megatron.mcore.step import learning_rate as module
from hpt_megatron.mcore.step.learning_rate import Schedule, learning_rate

pytestmark = pytest.mark.fast


def rates(kind, steps, **how):
    return [round(learning_rate(step, Schedule(kind, 8.0, **how)), 9) for step in range(steps)]


def test_the_example_of_the_schedule_holds():
    result = doctest.testmod(module)
    assert (result.failed, result.attempted) == (0, 1)


def test_a_constant_rate_rises_in_its_warm_up_and_stays():
    assert rates("constant", 4) == [8.0] * 4
    assert rates("constant", 6, warmup=4) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]
    assert rates("constant", 6, warmup=4, total=5) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


@pytest.mark.parametrize("warmup", [0, 1])
def test_without_a_warm_up_the_first_step_has_the_peak_and_the_last_the_floor(warmup):
    """A warm-up of one step is none: its only step has the whole rate."""
    assert rates("linear", 5, warmup=warmup, total=5) == [8.0, 6.0, 4.0, 2.0, 0.0]
    assert rates("linear", 5, warmup=warmup, total=5, floor=0.5) == [8.0, 7.0, 6.0, 5.0, 4.0]


def test_a_linear_rate_falls_evenly_after_its_warm_up():
    assert rates("linear", 7, warmup=3, total=7, floor=0.25) == [
        round(8 / 3, 9),
        round(16 / 3, 9),
        8.0,
        6.5,
        5.0,
        3.5,
        2.0,
    ]


def test_a_cosine_falls_along_half_a_wave():
    assert rates("cosine", 5, total=5) == [8.0, round(4 + 4 * math.sqrt(0.5), 9), 4.0, round(4 - 4 * 0.5**0.5, 9), 0.0]
    assert rates("cosine", 5, total=5, floor=0.5)[2] == 6.0


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_past_the_end_the_rate_stays_at_its_floor(kind, floor):
    assert rates(kind, 9, total=6, warmup=2, floor=floor)[5:] == [round(8 * floor, 9)] * 4


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_run_that_ends_within_its_warm_up_never_falls_before_the_peak(kind):
    assert rates(kind, 5, warmup=4, total=3)[:4] == [2.0, 4.0, 6.0, 8.0]
    assert rates(kind, 5, warmup=4, total=4) == [2.0, 4.0, 6.0, 8.0, 0.0]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_rate_never_rises_after_the_peak_nor_leaves_its_bounds(kind):
    told = rates(kind, 40, warmup=5, total=30, floor=0.1)
    assert told[:5] == sorted(told[:5])
    assert told[4:] == sorted(told[4:], reverse=True)
    assert (min(told[4:]), max(told)) == (0.8, 8.0)
