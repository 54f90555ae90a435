"""Strategies: the published tables, the worked examples of the docstrings, and what must hold for any outcome."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.algorithms.routing.adaptive import Adaptive
from hpt_megatron.algorithms.routing.anneal import Anneal
from hpt_megatron.algorithms.routing.decision import EXPLORE, IMITATE, Mix, Outcome, route
from hpt_megatron.algorithms.routing.demonstration import DEMONSTRATIONS
from hpt_megatron.algorithms.routing.plain import Plain
from hpt_megatron.algorithms.routing.soft import PUBLISHED, Soft, soft_table
from hpt_megatron.algorithms.routing.switch import Switch
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast

KEEP, SFT, OFF = "explore", "imitate", "off_policy"
# (gate, gate_off) -> the arm for 0 ... 8 successes of 8
TABLE = {
    (0, 0): [SFT, *[KEEP] * 8],
    (2, 2): [*[SFT] * 3, *[KEEP] * 6],
    (0, 2): [SFT, OFF, OFF, *[KEEP] * 6],
    (-1, -1): [KEEP] * 9,
    (8, 8): [SFT] * 9,
    (3, 1): [*[SFT] * 4, *[KEEP] * 5],
}


def decide(strategy, n, k, **more):
    return route(strategy, [Outcome(n, k, **more)], step=0).decisions[0]


@pytest.mark.parametrize("gates", TABLE)
def test_switch_follows_the_released_table(gates):
    strategy = Switch(*gates)
    decisions = [decide(strategy, 8, k) for k in range(9)]
    assert [decision.arm for decision in decisions] == TABLE[gates]
    for decision in decisions:
        mix = {KEEP: EXPLORE, SFT: IMITATE, OFF: Mix(0.0, 1.0, 0.0)}[decision.arm]
        assert decision.mix == mix
        assert (decision.drop, decision.demo) == ((0, False) if decision.arm == KEEP else (8, True))


@given(n=st.integers(1, 64), rate=st.floats(0, 1))
def test_a_gate_given_as_a_rate_is_the_largest_count_within_it(n, rate):
    strategy = Switch(gate_rate=rate, gate_off_rate=rate)
    for k in range(n + 1):
        assert (decide(strategy, n, k).arm == SFT) == (k <= rate * n + 1e-9)


@pytest.mark.parametrize(
    ("valid", "by_count", "by_rate"),
    [(8, 2, 2), (7, 2, 1), (5, 2, 1), (4, 2, 1), (3, 2, 0), (2, 2, 0), (1, 1, 0)],
)
def test_a_count_stays_what_it_is_when_rollouts_are_lost_and_a_rate_follows_them(valid, by_count, by_rate):
    """The most successes that still imitate, for a gate of 2 and for one of a quarter, of 8 sampled rollouts."""
    for strategy, most in (
        (Switch(gate=2, gate_off=2), by_count),
        (Switch(gate_rate=0.25, gate_off_rate=0.25), by_rate),
    ):
        arms = [decide(strategy, valid, k).arm for k in range(valid + 1)]
        assert arms == [SFT] * (most + 1) + ["explore"] * (valid - most)


def test_partial_removal_leaves_the_other_rollouts_beside_the_target():
    decision = decide(Switch(remove=3), 8, 0)
    assert (decision.drop, decision.mix, decision.demo) == (3, Mix(1.0, 0.0, 1.0), True)
    assert decide(Switch(remove=8), 8, 0).mix == IMITATE


def test_a_prompt_without_a_target_never_imitates_and_is_counted():
    outcomes = [Outcome(8, 0, has_target=False), Outcome(8, 0), Outcome(8, 5, has_target=False)]
    kept = route(Switch(), outcomes, 0)
    assert [decision.arm for decision in kept.decisions] == [KEEP, SFT, KEEP]
    assert kept.without_target == 1
    dropped = route(Switch(), outcomes, 0, without_target="drop")
    assert [(d.arm, d.drop, d.demo) for d in dropped.decisions] == [
        ("skipped", 8, False),
        (SFT, 8, True),
        (KEEP, 0, False),
    ]


def test_a_prompt_without_a_valid_rollout_is_skipped_and_counted():
    routing = route(Switch(), [Outcome(0, 0), Outcome(8, 1)], 0)
    assert [decision.arm for decision in routing.decisions] == ["skipped", KEEP]
    assert routing.without_rollout == 1


def test_soft_gives_the_published_coefficients_for_seven_rollouts_and_a_demonstration():
    expected = [
        (0, 0, 1),
        (0.125, 0.5, 0.5),
        (0.25, 1, 0.25),
        (0.5, 0.5, 0.125),
        (1, 0.25, 0),
        (1, 0.125, 0),
        (1, 0, 0),
    ]
    expected.append((1, 0, 0))
    table, shifted = soft_table("published_0")
    for strategy in (Soft(table, count_includes_demo=True), Soft(table, shifted=shifted)):
        for k, mix in enumerate(expected):
            decision = decide(strategy, 7, k)
            assert (decision.mix.on, decision.mix.off, decision.mix.sft) == pytest.approx(mix)
            assert decision.drop == (7 if mix[0] == 0 else 0)
            assert decision.demo == (mix[1] + mix[2] > 0)


def test_soft_reads_entry_zero_only_when_the_demonstration_fails_too():
    table, _ = soft_table("published_0")
    assert decide(Soft(table, count_includes_demo=True), 7, 0, demo_right=False).mix == Mix(1.0, 1.0, 1.0)


@given(n=st.integers(1, 64))
def test_counting_the_demonstration_means_the_same_for_any_number_of_rollouts(n):
    """No success of a rollout and a right demonstration is imitation alone, whatever n is; a wrong one is entry 0."""
    table, _ = soft_table("published_0")
    counting = Soft(table, count_includes_demo=True)
    assert decide(counting, n, 0).mix == IMITATE
    assert decide(counting, n, n).mix == EXPLORE
    assert decide(counting, n, 0, demo_right=False).mix == Mix(1.0, 1.0, 1.0)


def test_the_other_published_tables_differ_where_they_are_published_to():
    rows = {name: [(mix.on, mix.off, mix.sft) for mix in table] for name, table in PUBLISHED.items()}
    assert rows["published_1"][1:4] == [(0, 1, 1), (0.125, 1, 0.5), (0.25, 1, 0.25)]
    assert rows["published_2"][1:4] == [(0, 0, 1), (0.125, 0, 0.5), (0.25, 0, 0.25)]
    assert all(rows[name][0] == (1, 1, 1) for name in rows)
    assert all(rows["published_1"][count][1] == 1 for count in range(9))


@given(n=st.integers(1, 64), name=st.sampled_from([*PUBLISHED]), data=st.data())
def test_a_table_for_any_number_of_rollouts_stays_between_its_points(n, name, data):
    k = data.draw(st.integers(0, n))
    table, shifted = soft_table(name)
    mix = decide(Soft(table, shifted=shifted), n, k).mix
    place = k * 7 / n
    ends = table[1 + int(place)], table[min(2 + int(place), 8)]
    for key in ("on", "off", "sft"):
        low, high = sorted((getattr(ends[0], key), getattr(ends[1], key)))
        assert low - 1e-9 <= getattr(mix, key) <= high + 1e-9


def test_a_table_of_ones_own_and_an_unknown_name():
    table, shifted = soft_table([[0, 0, 1], [1, 0, 0]])
    assert decide(Soft(table, shifted=shifted), 4, 1).mix == Mix(0.25, 0.0, 0.75)
    with pytest.raises(UserError, match="published_0, published_1, published_2"):
        soft_table("linear")


def test_plain_never_reads_a_target_unless_a_row_is_set_aside_for_it():
    assert {decide(Plain(), 8, k).arm for k in range(9)} == {KEEP}
    luffy = Plain(n_prefix=1, demonstration=DEMONSTRATIONS["off_policy"])
    assert {decide(luffy, 7, k).mix for k in range(8)} == {Mix(1.0, 1.0, 0.0)}
    srft = Plain(n_prefix=1, demonstration=DEMONSTRATIONS["srft"])
    assert decide(srft, 7, 3).mix == Mix(1.0, 1.0, 1.0)
    assert decide(luffy, 7, 3, has_target=False).mix == EXPLORE


def test_adaptive_follows_its_worked_example():
    strategy = Adaptive()
    seen = []
    for step, k in enumerate([0, 1, 3, 1, 1, 0, 0]):
        decision = route(strategy, [Outcome(8, k, prompt="a")], step).decisions[0]
        estimate, chance = strategy.estimates["a"], strategy.chance(Outcome(8, k, prompt="a"))
        mode = strategy.exploring["a"]
        seen.append((round(estimate, 3), round(chance, 2), decision.arm, round(decision.mix.sft, 2), mode))
    assert seen == [
        (0.0, 0.0, "imitate", 1.0, False),
        (0.083, 0.5, "imitate", 1.0, False),
        (0.278, 0.93, "explore", 0.0, True),
        (0.176, 0.79, "explore", 0.0, True),
        (0.142, 0.71, "blend", 0.09, True),
        (0.047, 0.32, "imitate", 1.0, True),
        (0.016, 0.12, "imitate", 1.0, False),
    ]


def test_adaptive_does_not_flip_where_a_fixed_gate_does():
    """One and two successes in turn: gate 1 changes its mind each time, hysteresis settles on one mode."""
    strategy, modes, fixed = Adaptive(), [], []
    for step in range(40):
        outcome = Outcome(8, 1 + step % 2, prompt="a")
        modes.append(route(strategy, [outcome], step).decisions[0].arm == "imitate")
        fixed.append(decide(Switch(1, 1), 8, outcome.k).arm)
    assert sum(a != b for a, b in itertools.pairwise(fixed)) == 39
    assert sum(a != b for a, b in itertools.pairwise(modes[10:])) == 0


def test_a_group_without_a_success_imitates_in_either_mode():
    """Its rollouts have nothing to tell apart, however well the prompt did before."""
    strategy = Adaptive()
    for step in range(10):
        route(strategy, [Outcome(8, 8, prompt="a")], step)
    assert route(strategy, [Outcome(8, 0, prompt="a")], 10).decisions[0].mix == IMITATE
    assert strategy.exploring["a"], "one failed group is no reason to change the mode"
    assert route(strategy, [Outcome(8, 0, has_target=False, prompt="b")], 11).without_target <= 1


def test_a_prompt_drawn_twice_in_a_step_counts_once_in_any_order():
    pair = [Outcome(8, 0, prompt="a"), Outcome(8, 8, prompt="a")]
    one, two = Adaptive(), Adaptive()
    route(one, pair, 0)
    route(two, pair[::-1], 0)
    assert one.estimates == two.estimates


def test_adaptive_leaves_imitation_as_the_model_learns_and_returns_when_it_forgets():
    strategy, share = Adaptive(), []
    for step in range(60):
        k = min(step // 5, 8) if step < 45 else 0
        share.append(route(strategy, [Outcome(8, k, prompt=str(i)) for i in range(4)], step).decisions[0].mix.sft)
    assert share[0] == 1.0
    assert share[44] == 0.0
    assert share[-1] == 1.0


def test_the_batch_speaks_for_a_prompt_that_was_not_seen_before():
    """The same single success: imitated beside exploring in a batch that fails, explored alone in one that succeeds."""
    arms = {}
    for level in (0, 8):
        strategy = Adaptive()
        for step in range(20):
            route(strategy, [Outcome(8, level, prompt=str(i)) for i in range(8)], step)
        arms[level] = route(strategy, [Outcome(8, 1, prompt="new")], 20).decisions[0].arm
    assert arms == {0: "blend", 8: "explore"}


@given(st.lists(st.tuples(st.integers(1, 16), st.integers(0, 16)), min_size=1, max_size=8), st.randoms())
def test_the_order_of_prompts_does_not_matter_and_a_resumed_run_decides_the_same(pairs, random):
    outcomes = [Outcome(n, min(k, n), prompt=str(i)) for i, (n, k) in enumerate(pairs)]
    shuffled = outcomes[:]
    random.shuffle(shuffled)
    one, two = Adaptive(), Adaptive()
    first = dict(zip([o.prompt for o in outcomes], route(one, outcomes, 0).decisions, strict=True))
    second = dict(zip([o.prompt for o in shuffled], route(two, shuffled, 0).decisions, strict=True))
    assert first == second
    resumed = Adaptive()
    resumed.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert route(resumed, outcomes, 1).decisions == route(one, outcomes, 1).decisions


def test_anneal_lets_imitation_fall_on_its_schedule():
    strategy = Anneal(steps=100)
    shares = {step: route(strategy, [Outcome(8, 4)], step).decisions[0] for step in (0, 25, 50, 100, 200)}
    assert [shares[step].mix.sft for step in shares] == [1.0, 0.75, 0.5, 0.0, 0.0]
    assert [shares[step].mix.on for step in shares] == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert shares[0].drop == 8
    cosine = Anneal(steps=100, shape="cosine")
    assert [round(route(cosine, [Outcome(8, 4)], step).decisions[0].mix.sft, 3) for step in (0, 25, 50, 100)] == [
        1,
        0.854,
        0.5,
        0,
    ]


def test_anneal_trains_the_target_as_offline_loss_type_says():
    strategy = Anneal(steps=100, imitation=DEMONSTRATIONS["off_policy"])
    assert route(strategy, [Outcome(8, 4)], 25).decisions[0].mix == Mix(0.25, 0.75, 0.0)


STRATEGIES = [
    Switch(2, 4),
    Switch(gate_rate=0.3),
    Soft(PUBLISHED["published_1"], shifted=True),
    Soft(PUBLISHED["published_0"], count_includes_demo=True),
    Plain(),
    Plain(n_prefix=1),
]


@given(n=st.integers(0, 64), data=st.data(), target=st.booleans(), step=st.integers(0, 300))
def test_every_decision_is_one_that_can_be_carried_out(n, data, target, step):
    k = data.draw(st.integers(0, n))
    for strategy in [*STRATEGIES, Adaptive(), Anneal()]:
        decision = route(strategy, [Outcome(n, k, target)], step).decisions[0]
        mix = decision.mix
        assert all(0 <= weight <= 1 for weight in (mix.on, mix.off, mix.sft))
        assert 0 <= decision.drop <= n
        assert target or not decision.demo
        assert decision.demo or (mix.off == 0 and mix.sft == 0), "a weight on a demonstration that is not there"
        if n and target:
            assert mix.on + mix.off + mix.sft > 0, "a prompt from which nothing is learned"
