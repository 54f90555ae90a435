"""From scores to the rows that are trained: success rules, counts, removal and addition of rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.algorithms.assemble import assemble, without_baselines
from hpt_megatron.algorithms.credit.estimator import CreditSettings
from hpt_megatron.algorithms.credit.remax import remax
from hpt_megatron.algorithms.normalize.streams import Coefficients
from hpt_megatron.algorithms.normalize.weights import global_weights
from hpt_megatron.algorithms.outcome import batch_metrics, count, successes
from hpt_megatron.algorithms.routing.decision import EXPLORE, IMITATE, Decision, Mix, Outcome, route
from hpt_megatron.algorithms.routing.switch import ALL, Switch
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.conditions import Condition
from hpt_megatron.protocol.rows import Rows


def rollouts(pattern):
    """Rollouts of 3 tokens each; `pattern` holds the successes of each prompt, as 0 and 1."""
    flat = [(p, s, right) for p, group in enumerate(pattern) for s, right in enumerate(group)]
    lengths = torch.full((len(flat),), 3, dtype=torch.int64)
    tokens = 3 * len(flat)
    rows = Rows(
        lengths,
        {
            "ids": torch.arange(tokens),
            "trained": torch.tensor([False, True, True]).repeat(len(flat)),
            "off": torch.zeros(tokens, dtype=torch.bool),
        },
        {
            "prompt": torch.tensor([p for p, _, _ in flat], dtype=torch.int64),
            "sample": torch.tensor([s for _, s, _ in flat], dtype=torch.int64),
            "off": torch.zeros(len(flat), dtype=torch.bool),
            "valid": torch.ones(len(flat), dtype=torch.bool),
        },
    )
    return rows, torch.tensor([bool(right) for _, _, right in flat], dtype=torch.bool)


def demonstrations(prompts, empty=()):
    """One target of 2 tokens after a prompt of 1, for each prompt named; those in `empty` have no target tokens."""
    trained = [token for p in prompts for token in ([False] if p in empty else [False, True, True])]
    return Rows(
        torch.tensor([1 if p in empty else 3 for p in prompts], dtype=torch.int64),
        {
            "ids": torch.full((len(trained),), -7),
            "trained": torch.tensor(trained, dtype=torch.bool),
            "off": torch.tensor(trained, dtype=torch.bool),
        },
        {
            "prompt": torch.tensor(list(prompts), dtype=torch.int64),
            "sample": torch.zeros(len(prompts), dtype=torch.int64),
            "off": torch.ones(len(prompts), dtype=torch.bool),
            "valid": torch.ones(len(prompts), dtype=torch.bool),
        },
    )


GOLDEN = [[0] * 8, [1] + [0] * 7, [1] * 3 + [0] * 5, [1] * 8]  # 0, 1, 3 and 8 successes of 8


def test_a_success_is_a_comparison_on_named_components():
    components = {
        "accuracy": torch.tensor([1.0, 0.99999, float("nan"), 2.0]),
        "score": torch.tensor([0.1, 0.11, 0.0, 0.5]),
    }
    assert successes(components, [Condition("accuracy")]).tolist() == [True, False, False, True]
    assert successes(components, [Condition("score", ">", 0.1)]).tolist() == [False, True, False, True]
    both = [Condition("accuracy"), Condition("score", ">", 0.1)]
    assert successes(components, both).tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ([Condition("acuracy")], "no reward component 'acuracy'; known here: accuracy"),
        ([Condition("accuracy", "==")], "no such operator: =="),
        ([], "no condition"),
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(rule, said):
    with pytest.raises(UserError, match=said):
        successes({"accuracy": torch.ones(2)}, rule)


def test_the_published_batch_counts_as_published():
    rows, success = rollouts(GOLDEN)
    metrics = batch_metrics(count(rows, success, 4), rows, success)
    assert metrics == {"batch/solve_none": 1.0, "batch/solve_all": 1.0, "batch/solved": 0.375, "batch/failed": 0.625}


def test_failures_of_ours_and_demonstrations_move_no_count():
    rows, success = rollouts([[1, 0, 0], [0, 0, 0]])
    rows = rows.with_fields(valid=torch.tensor([True, True, False, False, False, False]))
    both = Rows.concat([rows, demonstrations([0, 1])])
    success = torch.cat([success, torch.tensor([True, True])])
    counts = count(both, success, 2)
    assert (counts.n.tolist(), counts.k.tolist()) == ([2, 0], [1, 0])
    metrics = batch_metrics(counts, both, success, format_failed=~success)
    assert metrics["batch/solve_none"] == 0.0, "a prompt without a valid rollout was not tried"
    assert metrics["batch/solved"] == 0.5


@pytest.mark.parametrize(
    ("gates", "on", "off", "weights"),
    [((0, 0), 24, 1, [IMITATE]), ((2, 2), 16, 2, [IMITATE] * 2), ((0, 2), 16, 2, [IMITATE, Mix(0.0, 1.0, 0.0)])],
)
def test_switch_makes_the_published_rows(gates, on, off, weights):
    rows, success = rollouts(GOLDEN)
    counts = count(rows, success, 4)
    outcomes = [Outcome(int(n), int(k)) for n, k in zip(counts.n, counts.k, strict=True)]
    made = assemble(rows, demonstrations(range(4)), route(Switch(*gates), outcomes, 0).decisions, success)
    is_demo = made.rows.fields["off"]
    assert (int((~is_demo).sum()), int(is_demo.sum())) == (on, off)
    mixes = [tuple(made.rows.fields[f"mix_{key}"][is_demo].tolist()) for key in ("on", "off", "sft")]
    assert list(zip(*mixes, strict=True)) == [(mix.on, mix.off, mix.sft) for mix in weights]
    assert made.counts == {
        "rollouts": 32,
        "not_valid": 0,
        "removed": 32 - on,
        "demonstrations": off,
        "targets_missing": 0,
    }


def test_rows_stand_by_prompt_and_sample_with_the_demonstration_last():
    rows, success = rollouts([[1, 0], [0, 0], [1, 1]])
    blend = Decision(Mix(1.0, 0.0, 0.5), demo=True)
    decisions = [blend, Decision(IMITATE, drop=2, demo=True), Decision(EXPLORE)]
    made = assemble(
        rows.select(torch.tensor([5, 0, 3, 1, 4, 2])), demonstrations([2, 1, 0]), decisions, success[[5, 0, 3, 1, 4, 2]]
    )
    places = list(zip(made.rows.fields["prompt"].tolist(), made.rows.fields["sample"].tolist(), strict=True))
    assert places == [(0, 0), (0, 1), (0, -1), (1, -1), (2, 0), (2, 1)]
    assert made.rows.tokens["ids"].tolist() == [0, 1, 2, 3, 4, 5, -7, -7, -7, -7, -7, -7, 12, 13, 14, 15, 16, 17]


def test_partial_removal_takes_failures_first_and_later_ones_first():
    rows, success = rollouts([[0, 1, 0, 1, 0]])
    left = [
        assemble(rows, demonstrations([]), [Decision(EXPLORE, drop=drop)], success).rows.fields["sample"].tolist()
        for drop in range(6)
    ]
    assert left == [[0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 3], [1, 3], [1], []]


def test_a_removal_number_below_n_leaves_the_others_in_training():
    rows, success = rollouts([[0] * 8])
    decisions = route(Switch(remove=3), [Outcome(8, 0)], 0).decisions
    made = assemble(rows, demonstrations([0]), decisions, success)
    assert made.counts["removed"] == 3
    assert made.rows.fields["off"].tolist() == [False] * 5 + [True]
    assert made.rows.fields["mix_on"].tolist() == [1.0] * 6


def test_rollouts_that_are_not_valid_are_not_trained_and_not_counted_as_removed():
    rows, success = rollouts([[1, 0, 0, 0]])
    rows = rows.with_fields(valid=torch.tensor([True, False, True, False]))
    made = assemble(rows, demonstrations([]), [Decision(EXPLORE, drop=1)], success)
    assert made.rows.fields["sample"].tolist() == [0]
    assert (made.counts["not_valid"], made.counts["removed"]) == (2, 1)


def test_an_empty_target_never_becomes_a_row():
    rows, success = rollouts([[0, 0], [0, 0]])
    decisions = [Decision(IMITATE, drop=2, demo=True)] * 2
    made = assemble(rows, demonstrations([0, 1], empty=[1]), decisions, success)
    assert made.rows.fields["prompt"].tolist() == [0]
    assert made.counts["targets_missing"] == 1


@given(
    pattern=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=6),
    gate=st.integers(-1, 6),
    data=st.data(),
)
def test_any_order_of_rollouts_makes_the_same_rows(pattern, gate, data):
    rows, success = rollouts(pattern)
    order = torch.tensor(data.draw(st.permutations(range(rows.num_rows))))
    targets = demonstrations(range(len(pattern)))
    outcomes = [Outcome(len(group), sum(group)) for group in pattern]
    decisions = route(Switch(gate, gate), outcomes, 0).decisions
    one = assemble(rows, targets, decisions, success).rows
    two = assemble(rows.select(order), targets, decisions, success[order]).rows
    assert one.tokens["ids"].tolist() == two.tokens["ids"].tolist()
    imitating = sum(sum(group) <= gate for group in pattern)
    assert one.num_rows == imitating + sum(len(group) for group in pattern if sum(group) > gate)


def with_greedy(pattern, **changed):
    """Of each prompt the last rollout is the greedy one; it failed, so a removal of failures would take it first."""
    rows, success = rollouts([[*group, 0] for group in pattern])
    last = torch.tensor([s == len(group) for group in pattern for s in range(len(group) + 1)])
    targets = demonstrations(range(len(pattern)))
    return rows.with_fields(greedy=last, **changed), targets.with_fields(greedy=torch.zeros(len(pattern)) > 0), success


def remax_of(made, scores):
    """The credit of each row, its score on its last token."""
    reward = torch.zeros(made.rows.num_tokens)
    reward[made.rows.last(made.rows.tokens["trained"])] = torch.tensor(scores)
    rows = made.rows.with_tokens(reward=reward)
    return remax(rows, CreditSettings()).advantage[rows.last(rows.tokens["trained"])].tolist()


@pytest.mark.parametrize("remove", [1, 2, 3, ALL])
def test_a_greedy_rollout_stays_as_long_as_a_sampled_one_does_and_is_never_trained(remove):
    """Two prompts of three sampled rollouts and a greedy one: the first imitates, the second explores."""
    rows, targets, success = with_greedy([[0, 0, 0], [1, 1, 0]])
    counts = count(rows, success, 2)
    assert (counts.n.tolist(), counts.k.tolist()) == ([3, 3], [0, 2]), "the greedy one moves no gate"
    outcomes = [Outcome(int(n), int(k)) for n, k in zip(counts.n, counts.k, strict=True)]
    made = assemble(rows, targets, route(Switch(remove=remove), outcomes, 0).decisions, success)
    first = made.rows.fields["prompt"] == 0
    left = 3 - min(remove, 3)
    assert made.counts["removed"] == 3 - left
    assert made.rows.fields["greedy"][first].tolist() == [False] * left + [True] * (left > 0) + [False]
    assert made.rows.fields["greedy"][~first].tolist() == [False, False, False, True]
    weights = global_weights(made.rows, Coefficients(entropy=0.1, kl=0.1, value=0.1))
    greedy = made.rows.per_token(made.rows.fields["greedy"])
    assert all(weight[greedy].eq(0).all() for weight in weights.values())
    assert int((weights["rl"] != 0).sum()) == 2 * (3 + left), "two tokens of every sampled rollout that stays"
    credit = remax_of(made, [*[0.0] * left, *[0.25] * (left > 0), 1.0, 1.0, 1.0, 0.0, 0.5])
    alone = [*[-0.25] * left, 0.0, 0.75] if left else [1.0]
    assert credit == [*alone, 0.5, 0.5, -0.5, 0.0]


def test_a_lost_greedy_rollout_stays_so_that_its_prompt_gets_nothing_instead_of_stopping_the_run():
    rows, targets, success = with_greedy([[1, 1, 0]], valid=torch.tensor([True, True, True, False]))
    made = assemble(rows, targets, [Decision(EXPLORE)], success)
    assert made.rows.fields["valid"].tolist() == [True, True, True, False]
    assert remax_of(made, [1.0, 1.0, 0.0, 0.0]) == [0.0] * 4
    assert global_weights(made.rows, Coefficients(entropy=0.1))["entropy"].count_nonzero() == 6


def test_a_prompt_without_a_valid_rollout_leaves_no_greedy_one_behind():
    rows, targets, success = with_greedy([[1, 0]], valid=torch.tensor([False, False, True]))
    assert assemble(rows, targets, [Decision(EXPLORE)], success).rows.num_rows == 0


def test_what_only_the_credit_needed_never_reaches_the_trainer_and_no_weight_moves():
    rows, targets, success = with_greedy([[0, 0, 0], [1, 1, 0]])
    decisions = [Decision(IMITATE, drop=3, demo=True), Decision(EXPLORE)]
    made = assemble(rows, targets, decisions, success).rows
    left = without_baselines(made)
    assert left.fields["greedy"].tolist() == [False] * 4
    assert left.tokens["ids"].tolist() == made.tokens["ids"][~made.per_token(made.fields["greedy"])].tolist()
    before, after = global_weights(made, Coefficients(entropy=0.1)), global_weights(left, Coefficients(entropy=0.1))
    kept = ~made.per_token(made.fields["greedy"])
    assert all(torch.equal(before[name][kept], after[name]) for name in before)
    assert without_baselines(left) is left
