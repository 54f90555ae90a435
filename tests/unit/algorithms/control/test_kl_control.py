"""The KL controllers: worked values, bounds, update periods, resumption.

Not covered: where the measured KL comes from; that is `test_kl_reward.py`.
"""

import doctest
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.algorithms import kl_control
from hpt_megatron.algorithms.kl_control import (
    CONTROLLERS,
    DoubleHalve,
    Fixed,
    KlSettings,
    Proportional,
    make_controller,
)
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast

NAMES = ("fixed", "adaptive", "ppo_rule")
ANY_KL = st.floats(allow_nan=True, allow_infinity=True)
OBSERVATIONS = st.lists(st.tuples(ANY_KL, st.integers(0, 10_000)), max_size=30)


def bounded(**changed) -> KlSettings:
    return KlSettings(**{"kl_coef": 0.2, "low": 0.01, "high": 0.5, **changed})


def after(control, *observations):
    for kl, count in observations:
        control.observe(kl, count)
    return control.coefficient


def test_the_names_of_the_configuration_give_the_three_rules():
    assert [type(make_controller(name, bounded())) for name in NAMES] == [Fixed, Proportional, DoubleHalve]
    assert CONTROLLERS.names()[:3] == list(NAMES)
    with pytest.raises(UserError, match=r"no such KL controller: pid; one of fixed, adaptive, ppo_rule"):
        make_controller("pid", bounded())


def test_the_example_of_the_module_holds():
    result = doctest.testmod(kl_control)
    assert (result.failed, result.attempted) == (0, 5)


@pytest.mark.parametrize(
    ("kl", "count", "expected"),
    [
        (6.0, 256, 0.2),
        (6.6, 256, 0.2 * (1 + 0.1 * 256 / 10_000)),
        (5.4, 256, 0.2 * (1 - 0.1 * 256 / 10_000)),
        (9.0, 256, 0.201024),  # error 0.5, clipped to 0.2
        (600.0, 256, 0.201024),
        (0.0, 256, 0.198976),  # error -1, clipped to -0.2
        (-3.0, 256, 0.198976),  # k1 estimates may be negative
        (9.0, 10_000, 0.24),
        (9.0, 1_000_000, 0.5),  # times 21, bounded
        (0.0, 50_000, 0.01),  # times 0, bounded
        (0.0, 100_000, 0.01),  # times -1, bounded
    ],
)
def test_the_proportional_rule_gives_the_worked_values(kl, count, expected):
    assert after(Proportional(bounded()), (kl, count)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (9.001, 0.4),
        (9.0, 0.2),  # 1.5 * target itself rests
        (6.0, 0.2),
        (4.0, 0.2),  # target / 1.5 itself rests
        (3.999, 0.1),
        (0.0, 0.1),
        (-1.0, 0.1),
        (1e300, 0.4),
    ],
)
def test_the_double_or_halve_rule_gives_the_worked_values(kl, expected):
    assert after(DoubleHalve(bounded()), (kl, 1)) == expected
    assert after(DoubleHalve(bounded()), (kl, 4096)) == expected


def test_the_double_or_halve_rule_stops_at_its_bounds():
    assert after(DoubleHalve(bounded()), *[(10.0, 8)] * 2) == 0.5
    assert after(DoubleHalve(bounded()), *[(10.0, 8)] * 50) == 0.5
    assert after(DoubleHalve(bounded()), *[(1.0, 8)] * 4) == 0.0125
    assert after(DoubleHalve(bounded()), *[(1.0, 8)] * 50) == 0.01


def test_a_fixed_coefficient_is_never_moved():
    assert after(Fixed(bounded()), (100.0, 8), (0.0, 8), (math.nan, 8)) == 0.2


def test_the_coefficient_changes_at_the_end_of_a_period_with_the_mean_over_its_rows():
    control = DoubleHalve(bounded(update_period=3))
    seen = [after(control, (kl, rows)) for kl, rows in [(20.0, 10), (0.0, 20), (13.0, 10)]]
    assert seen == [0.2, 0.2, 0.2]  # (200 + 0 + 130) / 40 = 8.25, which is not above 9
    seen = [after(control, (kl, rows)) for kl, rows in [(20.0, 10), (0.0, 5), (0.0, 5)]]
    assert seen == [0.2, 0.2, 0.4]  # 200 / 20 = 10


def test_the_proportional_rule_counts_the_rows_of_the_whole_period():
    """Two periods of one step and one of two differ on purpose: the second multiplies once."""
    assert after(Proportional(bounded(update_period=2)), (9.0, 100), (9.0, 156)) == pytest.approx(0.201024, abs=1e-15)
    twice = 0.2 * (1 + 0.2 * 100 / 10_000) * (1 + 0.2 * 156 / 10_000)
    assert after(Proportional(bounded()), (9.0, 100), (9.0, 156)) == pytest.approx(twice, abs=1e-15)


@pytest.mark.parametrize("name", ["adaptive", "ppo_rule"])
@pytest.mark.parametrize("kl", [math.nan, math.inf, -math.inf])
def test_a_kl_that_is_not_finite_is_left_out_and_counted(name, kl):
    control = make_controller(name, bounded(update_period=2))
    assert after(control, (kl, 8), (20.0, 8)) == after(make_controller(name, bounded()), (20.0, 8)) > 0.2
    before = control.coefficient
    assert after(control, (kl, 8), (kl, 8)) == before
    assert control.ignored == 3


@pytest.mark.parametrize("name", ["adaptive", "ppo_rule"])
def test_a_step_without_rows_passes_time_and_measures_nothing(name):
    control = make_controller(name, bounded(update_period=2))
    assert after(control, (0.0, 0), (0.0, 0)) == 0.2
    assert control.ignored == 0
    with pytest.raises(ValueError, match="-1 rows"):
        control.observe(1.0, -1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"low": 0.3, "high": 0.1}, "no range"),
        ({"low": -0.1}, "no range"),
        ({"high": math.inf}, "no range"),
        ({"kl_coef": 0.6}, "outside its bounds 0.01 to 0.5"),
        ({"kl_coef": 0.0}, "outside its bounds"),
        ({"kl_coef": math.nan}, "outside its bounds"),
        ({"update_period": 0}, "update_period"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(changed, message):
    with pytest.raises(UserError, match=message) as refused:
        bounded(**changed)
    assert "\n" not in str(refused.value)


def test_a_target_or_horizon_is_asked_of_the_rules_that_use_it():
    for name in ("adaptive", "ppo_rule"):
        for target in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(UserError, match="target_kl"):
                make_controller(name, bounded(target_kl=target))
    with pytest.raises(UserError, match="horizon"):
        make_controller("adaptive", bounded(horizon=0))
    assert make_controller("ppo_rule", bounded(horizon=0)).coefficient == 0.2
    assert make_controller("fixed", bounded(horizon=0, target_kl=0.0)).coefficient == 0.2


@given(st.sampled_from(NAMES), OBSERVATIONS, st.integers(1, 5))
def test_every_coefficient_lies_in_its_bounds_and_changes_at_a_periods_end_only(name, observations, period):
    control = make_controller(name, bounded(update_period=period))
    before = control.coefficient
    for step, (kl, count) in enumerate(observations, start=1):
        now = after(control, (kl, count))
        assert 0.01 <= now <= 0.5
        assert now == before or step % period == 0
        before = now
    assert control.ignored == sum(not math.isfinite(kl) for kl, _ in observations)


@given(st.sampled_from(NAMES[1:]), st.floats(-10, 100), st.integers(1, 5000))
def test_the_coefficient_never_moves_against_the_error(name, kl, count):
    moved = after(make_controller(name, bounded()), (kl, count)) - 0.2
    assert moved * (kl - 6.0) >= 0


@given(st.sampled_from(NAMES), OBSERVATIONS, OBSERVATIONS, st.integers(1, 5))
def test_a_controller_that_loads_a_state_through_json_continues_bit_for_bit(name, first, then, period):
    """Not covered: a state written by another version of this file."""
    control, resumed = (make_controller(name, bounded(update_period=period)) for _ in range(2))
    after(control, *first)
    resumed.load_state_dict(json.loads(json.dumps(control.state_dict(), allow_nan=False)))
    assert resumed.state_dict() == control.state_dict()
    for observation in then:
        assert after(control, observation) == after(resumed, observation)
    assert resumed.state_dict() == control.state_dict()


@given(
    st.lists(st.tuples(st.floats(0, 50), st.integers(1, 1000)), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_the_order_of_observations_within_a_period_does_not_matter(observations, random):
    """Up to rounding; the double or halve rule would show it as a jump only exactly at its edge."""
    period = bounded(update_period=len(observations))
    straight = after(Proportional(period), *observations)
    shuffled = random.sample(observations, len(observations))
    assert after(Proportional(period), *shuffled) == pytest.approx(straight, rel=1e-12)
    rows = sum(count for _, count in observations)
    mean = math.fsum(kl * count for kl, count in observations) / rows
    assert after(Proportional(bounded()), (mean, rows)) == pytest.approx(straight, rel=1e-12)


def test_a_state_of_another_type_is_refused():
    with pytest.raises(UserError, match=r"the checkpoint's controller is adaptive, the run's is ppo_rule"):
        DoubleHalve(bounded()).load_state_dict(Proportional(bounded()).state_dict())


def test_settings_changed_on_resume_hold():
    control = DoubleHalve(bounded(update_period=10))
    after(control, *[(20.0, 8)] * 14)
    assert control.coefficient == 0.4
    narrower = DoubleHalve(bounded(high=0.3, update_period=2))
    narrower.load_state_dict(control.state_dict())
    assert narrower.coefficient == 0.3
    assert after(narrower, (0.0, 3200)) == 0.15  # 4 steps of the old period were done, so a period of 2 ends now
    fixed = Fixed(bounded(kl_coef=0.1))
    fixed.load_state_dict(Fixed(bounded(kl_coef=0.2)).state_dict())
    assert fixed.coefficient == 0.1
