"""Prefix plans: every strategy's worked values, what the released code left undefined, independence of order.

Not covered: the tokens themselves; a plan only says how many.
"""

import doctest
import json
import math
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpt_megatron.algorithms import prefix
from hpt_megatron.algorithms.prefix import PrefixSettings, bounds, make_plan, plan_counts, ratio_of, uniform
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast

LUFFY = PrefixSettings(strategy="random", n_prefix=1, min_ratio=1.0, max_ratio=1.0)


@st.composite
def some_settings(draw) -> PrefixSettings:
    strategy = draw(st.sampled_from(["none", "random", "linear", "linear_max", "reverse_linear", "fixed"]))
    low, high = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    return PrefixSettings(
        strategy=strategy,
        n_prefix=0 if strategy == "none" else draw(st.sampled_from([-1, 0, 1, 2, 4])),
        min_ratio=0.0 if strategy in prefix.SCHEDULED else low,
        max_ratio=high,
        steps=draw(st.integers(1, 500)),
        share={"linear": True, "fixed": False}.get(strategy, draw(st.booleans())),
        seed=draw(st.integers(0, 3)),
    )


def plan_of(chosen: PrefixSettings, **changed):
    given_values = {"step": 0, "prompt": "p", "samples": 8, "target_tokens": 100, "limit": 1000, **changed}
    return make_plan(chosen, **given_values)


def tokens_of(chosen: PrefixSettings, **changed) -> list[int]:
    return [row.prefix_tokens for row in plan_of(chosen, **changed).rows]


def test_the_example_of_the_module_holds():
    result = doctest.testmod(prefix)
    assert (result.failed, result.attempted) == (0, 3)


def test_one_prefix_of_ratio_one_is_one_demonstration_and_the_rest_rollouts():
    plan = plan_of(LUFFY)
    assert [(row.sample, row.prefix_tokens, row.complete) for row in plan.rows] == [
        (0, 100, True),
        *[(sample, 0, False) for sample in range(1, 8)],
    ]
    assert not plan.without_target


def test_a_row_that_holds_the_whole_demonstration_needs_no_engine_call():
    """The released code samples a continuation after the end token and masks it away."""
    whole = PrefixSettings(strategy="fixed", n_prefix=3, min_ratio=0.5, max_ratio=1.0)
    assert [row.complete for row in plan_of(whole, samples=4).rows] == [False, False, True, False]
    almost = PrefixSettings(strategy="random", n_prefix=1, min_ratio=0.99, max_ratio=0.99)
    assert [row.complete for row in plan_of(almost, samples=2).rows] == [False, False]


def test_no_prefix_is_pure_rl_with_sharing_too():
    """With sharing, the released code gives every row a prefix when it is asked for none."""
    for share in (False, True):
        chosen = PrefixSettings(strategy="random", n_prefix=0, min_ratio=0.5, max_ratio=1.0, share=share)
        assert tokens_of(chosen) == [0] * 8
        assert not plan_of(chosen, target_tokens=0).without_target
    assert tokens_of(PrefixSettings()) == [0] * 8


def test_minus_one_gives_every_row_a_prefix():
    chosen = PrefixSettings(strategy="random", n_prefix=-1, min_ratio=0.25, max_ratio=0.75)
    assert len(set(tokens_of(chosen))) > 1
    assert all(25 <= tokens <= 75 for tokens in tokens_of(chosen))


@pytest.mark.parametrize(
    ("n_prefix", "low", "high", "expected"),
    [
        (4, 0.0, 0.75, [0, 25, 50, 75, 0, 0, 0, 0]),
        (2, 0.25, 1.0, [25, 100, 0, 0, 0, 0, 0, 0]),
        (1, 0.25, 0.75, [75, 0, 0, 0, 0, 0, 0, 0]),  # the released code divides by zero
        (-1, 0.0, 0.875, [0, 12, 25, 37, 50, 62, 75, 87]),
        (0, 0.25, 1.0, [0] * 8),
    ],
)
def test_fixed_ratios_are_evenly_spaced(n_prefix, low, high, expected):
    assert tokens_of(PrefixSettings(strategy="fixed", n_prefix=n_prefix, min_ratio=low, max_ratio=high)) == expected


@pytest.mark.parametrize("count", range(1, 65))
def test_the_last_fixed_ratio_is_the_largest_exactly(count):
    """Adding up steps of 1 / 49 would end below 1, and the demonstration would lose its end token."""
    chosen = PrefixSettings(strategy="fixed", n_prefix=-1)
    last = plan_of(chosen, samples=count, target_tokens=997).rows[-1]
    assert (last.prefix_tokens, last.complete) == (997, True)


@given(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted), st.integers(2, 9))
@example([0.05, 0.21], 2)  # 0.05 + (0.21 - 0.05) is less than 0.21
def test_the_ends_of_fixed_ratios_are_the_settings_bit_for_bit(ends, count):
    low, high = ends
    chosen = PrefixSettings(strategy="fixed", n_prefix=count, min_ratio=low, max_ratio=high)
    assert ratio_of(chosen, 0, "p", 0, count) == low
    assert ratio_of(chosen, 0, "p", count - 1, count) == high


def test_linear_shrinks_to_nothing_and_stays_there():
    chosen = PrefixSettings(strategy="linear", n_prefix=2, max_ratio=0.8, steps=4, share=True)
    assert [tokens_of(chosen, step=step, samples=3) for step in range(6)] == [
        [80, 80, 0],
        [60, 60, 0],
        [40, 40, 0],
        [20, 20, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_the_windows_of_the_two_growing_and_shrinking_strategies():
    """A window ends with its last step; the last one never ends."""
    shrinking = PrefixSettings(strategy="linear_max", n_prefix=1, max_ratio=1.0, steps=100)
    growing = PrefixSettings(strategy="reverse_linear", n_prefix=1, max_ratio=1.0, steps=100)
    steps = [0, 1, 10, 11, 20, 21, 50, 90, 91, 100, 101, 10_000]
    assert [bounds(shrinking, step)[1] for step in steps] == [1, 1, 1, 0.9, 0.9, 0.8, 0.6, 0.2, 0.1, 0.1, 0.1, 0.1]
    assert [bounds(growing, step)[1] for step in steps] == [0.1, 0.1, 0.1, 0.2, 0.2, 0.3, 0.5, 0.9, 1, 1, 1, 1]
    assert {bounds(chosen, step)[0] for chosen in (shrinking, growing) for step in steps} == {0.0}
    half = PrefixSettings(strategy="linear_max", n_prefix=1, max_ratio=0.5, steps=3)
    assert [bounds(half, step)[1] for step in range(4)] == [0.5, 0.35, 0.2, 0.05]


@pytest.mark.parametrize("strategy", ["random", "linear_max", "reverse_linear"])
def test_sharing_gives_the_rows_of_a_prompt_one_ratio_of_their_own_strategy(strategy):
    """With sharing, the released code makes all of these random."""
    chosen = PrefixSettings(strategy=strategy, n_prefix=3, max_ratio=0.8, steps=10, share=True)
    first = [tokens_of(chosen, prompt=prompt, samples=4, step=10) for prompt in range(40)]
    assert all(len(set(tokens[:3])) == 1 and tokens[3] == 0 for tokens in first)
    assert len({tokens[0] for tokens in first}) > 3
    highest = {"random": 80, "linear_max": 8, "reverse_linear": 80}[strategy]
    assert max(tokens[0] for tokens in first) <= highest


@pytest.mark.parametrize(
    ("target", "ratio", "expected"),
    [(7, 0.5, 3), (1, 0.99, 0), (1, 1.0, 1), (3, 1 / 3, 1), (100, 0.29, 28), (10, 0.1, 1)],
)
def test_a_prefix_is_the_rounded_down_share_of_the_target_with_its_end(target, ratio, expected):
    """100 * 0.29 is a little under 29 in floating point; we keep the released arithmetic."""
    chosen = PrefixSettings(strategy="random", n_prefix=1, min_ratio=ratio, max_ratio=ratio)
    assert tokens_of(chosen, target_tokens=target)[0] == expected


def test_a_prompt_without_a_target_gets_no_prefix_and_is_counted():
    """In the released code such a row counts as a rollout whose response is padding."""
    plan = plan_of(LUFFY, target_tokens=0)
    assert [(row.prefix_tokens, row.complete) for row in plan.rows] == [(0, False)] * 8
    assert plan.without_target
    counts = plan_counts([plan, plan_of(LUFFY), plan_of(PrefixSettings(), target_tokens=0)])
    assert counts == {
        "prefix/rows": 1,
        "prefix/tokens": 100,
        "prefix/complete": 1,
        "prefix/cut": 0,
        "prefix/without_target": 1,
    }


def test_a_demonstration_longer_than_a_response_is_cut_in_the_open():
    """The released code cuts it in silence, and asks the engine for more than the model's length."""
    plan = plan_of(LUFFY, limit=60)
    assert (plan.rows[0].prefix_tokens, plan.rows[0].complete, plan.cut) == (60, True, 1)
    assert plan_counts([plan])["prefix/cut"] == 1
    partial = PrefixSettings(strategy="random", n_prefix=1, min_ratio=0.5, max_ratio=0.5)
    assert (plan_of(partial, limit=50).rows[0].complete, plan_of(partial, limit=50).cut) == (True, 1)
    assert (plan_of(partial, limit=51).rows[0].complete, plan_of(partial, limit=51).cut) == (False, 0)
    assert plan_of(LUFFY, limit=100).cut == 0
    with pytest.raises(ValueError, match="at most 0 tokens"):
        plan_of(LUFFY, limit=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strategy": "linear_variance"}, "no such strategy: linear_variance; one of none, random, linear, "),
        ({"strategy": "random", "n_prefix": -2}, "n_prefix"),
        ({"strategy": "random", "min_ratio": 0.6, "max_ratio": 0.5}, "no range of ratios"),
        ({"strategy": "random", "max_ratio": 1.5}, "no range of ratios"),
        ({"strategy": "random", "min_ratio": math.nan}, "no range of ratios"),
        ({"strategy": "linear_max", "steps": 0}, "prefix_steps"),
        ({"strategy": "none", "n_prefix": 1}, "none gives no row a prefix"),
        ({"strategy": "linear_max", "min_ratio": 0.1}, "would act on nothing"),
        ({"strategy": "linear", "share": False}, "one ratio"),
        ({"strategy": "fixed", "share": True}, "different ratios"),
    ],
)
def test_settings_that_cannot_act_are_refused_with_a_reason(changed, message):
    with pytest.raises(UserError, match=message) as refused:
        PrefixSettings(**changed)
    assert "\n" not in str(refused.value)


def test_more_prefixes_than_rows_are_refused():
    with pytest.raises(UserError, match="9 of 8 rows"):
        plan_of(PrefixSettings(strategy="random", n_prefix=9))


def test_random_numbers_are_the_same_on_every_machine():
    expected = [0.2716380502608926, 0.7877805798473777, 0.29174931992967035]
    chosen = PrefixSettings(seed=47)
    assert [uniform(chosen, 3, "p7", sample) for sample in range(3)] == expected


def test_a_fresh_process_with_another_hash_seed_makes_the_same_plan():
    program = (
        "import json\n"
        "from hpt_megatron.algorithms.prefix import PrefixSettings, make_plan\n"
        "chosen = PrefixSettings(strategy='random', n_prefix=-1, seed=5)\n"
        "plan = make_plan(chosen, step=9, prompt='q', samples=8, target_tokens=1000, limit=1000)\n"
        "print(json.dumps([row.prefix_tokens for row in plan.rows]))\n"
    )
    chosen = PrefixSettings(strategy="random", n_prefix=-1, seed=5)
    here = tokens_of(chosen, step=9, prompt="q", target_tokens=1000)
    for seed in ("1", "2"):
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, timeout=60)
        assert json.loads(done.stdout) == here, done.stderr


def test_random_numbers_differ_by_seed_step_prompt_and_sample_and_fill_their_range():
    drawn = [
        uniform(PrefixSettings(seed=seed), step, prompt, sample)
        for seed in range(4)
        for step in range(8)
        for prompt in ("a", "b", "1/0", "0/1", 7, 8)
        for sample in range(8)
    ]
    assert len(set(drawn)) == len(drawn) == 1536
    assert all(0 <= number < 1 for number in drawn)
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.03)
    tenths = [sum(int(number * 10) == tenth for number in drawn) for tenth in range(10)]
    assert min(tenths) > 110  # 154 expected in each


@given(some_settings(), st.integers(0, 1000), st.integers(4, 10), st.integers(0, 200), st.integers(1, 200))
@example(PrefixSettings(strategy="linear_max", n_prefix=-1, max_ratio=0.42708667307445913), 0, 4, 9, 9)
@example(PrefixSettings(strategy="reverse_linear", n_prefix=-1, max_ratio=0.42708667307445913), 300, 4, 9, 9)
def test_every_plan_keeps_its_bounds(chosen, step, samples, target_tokens, limit):
    plan = plan_of(chosen, step=step, samples=samples, target_tokens=target_tokens, limit=limit)
    count = samples if chosen.n_prefix == -1 else chosen.n_prefix
    low, high = bounds(chosen, step)
    assert 0 <= low <= high <= chosen.max_ratio
    assert [row.sample for row in plan.rows] == list(range(samples))
    assert plan.without_target == (count > 0 and target_tokens == 0)
    for row in plan.rows:
        assert 0 <= row.prefix_tokens <= min(target_tokens, limit)
        assert row.sample < count or row.prefix_tokens == 0
        assert row.complete == (0 < row.prefix_tokens == min(target_tokens, limit))
        if row.sample < count:
            ratio = ratio_of(chosen, step, "p", row.sample, count)
            assert low - 1e-12 <= ratio <= high
    assert plan.cut == (sum(row.complete for row in plan.rows) if target_tokens > limit else 0)


@given(
    some_settings(),
    st.lists(st.text(max_size=5) | st.integers(), max_size=8, unique_by=str),
    st.integers(0, 400),
    st.randoms(use_true_random=False),
)
def test_a_plan_does_not_depend_on_the_order_of_prompts_nor_on_what_was_planned_before(chosen, prompts, step, random):
    straight = {prompt: plan_of(chosen, prompt=prompt, step=step) for prompt in prompts}
    shuffled = random.sample(prompts, len(prompts))
    for prompt in shuffled[: len(shuffled) // 2]:
        plan_of(chosen, prompt=prompt, step=step + 1)
    assert {prompt: plan_of(chosen, prompt=prompt, step=step) for prompt in shuffled} == straight


@given(st.sampled_from(["linear", "linear_max", "reverse_linear"]), st.integers(1, 50), st.floats(0, 1))
def test_a_schedule_moves_one_way_and_comes_to_rest(strategy, steps, high):
    chosen = PrefixSettings(strategy=strategy, n_prefix=1, max_ratio=high, steps=steps, share=True)
    highs = [bounds(chosen, step)[1] for step in range(steps + 3)]
    assert highs == sorted(highs, reverse=strategy != "reverse_linear")
    assert highs[steps] == highs[steps + 2]
