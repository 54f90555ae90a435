"""Weights: the three normalisations by their worked numbers, and what must not matter to the default one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.algorithms.normalize.streams import STREAMS, Coefficients
from hpt_megatron.algorithms.normalize.weights import global_weights, official_weights, paper_weights
from hpt_megatron.protocol.rows import Rows


def batch(lengths, off, mixes=None, prompts=None):
    """Rows of trained tokens only; `off` says which are demonstrations."""
    off = torch.tensor(off, dtype=torch.bool)
    mixes = torch.tensor(mixes or [[0.0, 0.0, 1.0] if demo else [1.0, 0.0, 0.0] for demo in off.tolist()])
    rows = Rows(
        torch.tensor(lengths, dtype=torch.int64),
        {},
        {
            "prompt": torch.tensor(prompts or list(range(len(lengths)))),
            "off": off,
            **{f"mix_{key}": mixes[:, i] for i, key in enumerate(("on", "off", "sft"))},
        },
    )
    return rows.with_tokens(trained=torch.ones(rows.num_tokens, dtype=torch.bool), off=rows.per_token(off))


def total(weights, rows, of_token):
    return float((weights.double() * of_token.double()).sum())


# Two rollouts of 3 and 4 tokens and a demonstration of 2; the values are the released code's worked example.
EXAMPLE = batch([3, 4, 2], [False, False, True], prompts=[0, 0, 1])
RL = torch.tensor([-0.75, -0.9375, -0.375, 0.375, 0.25, 0.175, 0.275, 0.0, 0.0], dtype=torch.float64)
NLL = -torch.log(torch.tensor([1.0] * 7 + [0.1, 0.4], dtype=torch.float64))
ENTROPY = torch.tensor([0.5, 0.7, 1.1, 0.9, 0.8, 1.2, 0.6, 1.5, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("coefficient", "policy", "with_entropy"), [(1.0, 1.36256291, 1.36164069), (0.3, 0.23595637, 0.23503415)]
)
def test_official_repeats_the_released_arithmetic(coefficient, policy, with_entropy):
    settings_ = Coefficients(sft=coefficient, entropy=0.001, length=4)
    weights = official_weights(EXAMPLE, settings_, torch.zeros(3, dtype=torch.int64), ranks=1)
    loss = total(weights["rl"], EXAMPLE, RL) + total(weights["sft"], EXAMPLE, NLL)
    assert total(weights["rl"], EXAMPLE, RL) == pytest.approx(-0.246875, abs=1e-7)
    assert loss == pytest.approx(policy, abs=1e-7)
    assert loss - total(weights["entropy"], EXAMPLE, ENTROPY) == pytest.approx(with_entropy, abs=1e-7)


def test_global_is_the_released_token_mean_where_that_is_defined():
    weights = global_weights(EXAMPLE, Coefficients(sft=0.3))
    assert total(weights["rl"], EXAMPLE, RL) == pytest.approx(-0.14107143, abs=1e-7)
    assert total(weights["rl"], EXAMPLE, RL) + total(weights["sft"], EXAMPLE, NLL) == pytest.approx(
        0.34175995, abs=1e-7
    )


def test_rl_on_rollouts_and_on_demonstrations_share_one_count():
    """LUFFY's token mean over both kinds, as worked out for the shape p / (p + 0.1)."""
    rows = batch([3, 4, 2], [False, False, True], [[1.0, 1.0, 0.0]] * 3, [0, 0, 0])
    weights = global_weights(rows, Coefficients())
    shaped = torch.tensor([0.0] * 7 + [-0.5, -0.8], dtype=torch.float64)
    loss = total(weights["rl"], rows, RL) + total(weights["off"], rows, shaped)
    assert loss == pytest.approx(-0.25416667, abs=1e-7)


TRAP = batch([100, 900], [True, True])  # two demonstrations whose losses per token are 1 and 3
LOSSES = torch.cat([torch.ones(100), torch.full((900,), 3.0)])


def test_the_normalisation_trap():
    """Pooled 2.8, by sequence 2.0, and 4.0 once the released code packs them into two micro-batches."""
    one, two = torch.tensor([0, 0]), torch.tensor([0, 1])
    assert total(official_weights(TRAP, Coefficients(), one, 1)["sft"], TRAP, LOSSES) == pytest.approx(2.8)
    assert total(official_weights(TRAP, Coefficients(), two, 1)["sft"], TRAP, LOSSES) == pytest.approx(4.0)
    assert total(paper_weights(TRAP, Coefficients())["sft"], TRAP, LOSSES) == pytest.approx(2.0)
    assert total(global_weights(TRAP, Coefficients())["sft"], TRAP, LOSSES) == pytest.approx(2.8)
    by_row = global_weights(TRAP, Coefficients(loss_agg="sequence"))
    assert total(by_row["sft"], TRAP, LOSSES) == pytest.approx(2.0)


def test_official_rl_does_not_depend_on_micro_batches_but_imitation_does():
    rows = batch([2, 3, 4, 5], [False, True, False, True])
    kinds = [official_weights(rows, Coefficients(length=8), torch.tensor(m), 1) for m in ([0, 0, 0, 0], [0, 0, 1, 1])]
    assert torch.equal(kinds[0]["rl"], kinds[1]["rl"])
    assert not torch.equal(kinds[0]["sft"], kinds[1]["sft"])


def test_paper_averages_over_prompts_and_their_rollouts():
    """Two prompts: one explores with 2 rollouts of 3 and 1 tokens, one imitates a target of 4 tokens."""
    rows = batch([3, 1, 4], [False, False, True], prompts=[5, 5, 9])
    weights = paper_weights(rows, Coefficients(sft=0.5))
    assert weights["rl"].tolist() == [0.25] * 4 + [0.0] * 4
    assert weights["sft"].tolist() == [0.0] * 4 + [0.5 / (4 * 2)] * 4


def test_constant_divides_by_the_length_and_the_rows():
    rows = batch([3, 1], [False, False])
    weights = global_weights(rows, Coefficients(loss_agg="constant", length=10))
    assert weights["rl"].tolist() == pytest.approx([1 / 20] * 4)


def test_soft_weights_really_scale_the_loss():
    """Twice the weight of a prompt's rollouts, twice their part of the loss; the count stays."""
    lengths, off = [2, 2, 2], [False, False, True]
    one = batch(lengths, off, [[0.25, 0, 0.5], [1, 0, 0.5], [0.25, 0, 0.5]], [0, 1, 0])
    weights = global_weights(one, Coefficients())
    assert weights["rl"].tolist() == pytest.approx([0.25 / 4] * 2 + [1 / 4] * 2 + [0] * 2)
    assert weights["sft"].tolist() == pytest.approx([0.0] * 4 + [0.5 / 2] * 2)


def test_untrained_tokens_and_unused_components_are_exact_zeros():
    rows = batch([4, 3], [False, False]).with_tokens(
        trained=torch.tensor([False, True, True, False, True, False, False]), off=torch.zeros(7, dtype=torch.bool)
    )
    for weights in (
        global_weights(rows, Coefficients()),
        paper_weights(rows, Coefficients()),
        official_weights(rows, Coefficients(length=4), torch.zeros(2, dtype=torch.int64), 2),
    ):
        assert set(weights) == set(STREAMS)
        assert weights["rl"][~rows.tokens["trained"]].tolist() == [0.0] * 4
        for name in ("off", "sft", "entropy", "kl", "value"):
            assert torch.equal(weights[name], torch.zeros(7))
            assert not torch.isnan(weights[name]).any()


def test_the_entropy_bonus_can_leave_demonstrations_out():
    rows = batch([2, 3], [False, True])
    everywhere = global_weights(rows, Coefficients(entropy=0.1))["entropy"]
    rollouts = global_weights(rows, Coefficients(entropy=0.1, entropy_on_demo=False))["entropy"]
    assert everywhere.tolist() == pytest.approx([0.02] * 5)
    assert rollouts.tolist() == pytest.approx([0.05] * 2 + [0.0] * 3)


ROWS = st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.integers(0, 3)), min_size=1, max_size=8)


@given(given_rows=ROWS, data=st.data(), agg=st.sampled_from(["token", "sequence", "constant"]))
def test_the_order_of_rows_does_not_matter(given_rows, data, agg):
    rows = batch(*zip(*[(n, off) for n, off, _ in given_rows], strict=True), prompts=[p for _, _, p in given_rows])
    order = torch.tensor(data.draw(st.permutations(range(rows.num_rows))))
    coefficients = Coefficients(loss_agg=agg, length=6, entropy=0.1)
    for make in (global_weights, paper_weights):
        weights = {f"weight_{name}": weight for name, weight in make(rows, coefficients).items()}
        one = rows.with_tokens(**weights).select(order)
        two = make(rows.select(order), coefficients)
        for name in STREAMS:
            assert torch.allclose(one.tokens[f"weight_{name}"], two[name], rtol=1e-6, atol=0)
            assert torch.isfinite(two[name]).all()


@given(given_rows=ROWS)
def test_a_padding_row_changes_nothing_for_the_others(given_rows):
    """A row without a trained token is what fills a rank up."""
    rows = batch(*zip(*[(n, off) for n, off, _ in given_rows], strict=True), prompts=[p for _, _, p in given_rows])
    pad = batch([2], [False], prompts=[99]).with_tokens(trained=torch.zeros(2, dtype=torch.bool))
    for make in (global_weights, paper_weights):
        alone, padded = make(rows, Coefficients()), make(Rows.concat([rows, pad]), Coefficients())
        for name in STREAMS:
            assert torch.equal(padded[name][: rows.num_tokens], alone[name])
            assert torch.equal(padded[name][rows.num_tokens :], torch.zeros(2))
