"""Losses over pairs as weights of tokens: against autograd of each formula, written here once more on single log-probs.

Not covered: the pass that collects the sums, and the recipe that trains with them; both come with the trainer.
"""

import doctest
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.algorithms.objective import pairwise as frame
from hpt_megatron.algorithms.objective import preference
from hpt_megatron.algorithms.objective.pairwise import PAIRWISE, Pairs, RowSums, pairwise_weights
from hpt_megatron.algorithms.objective.part import View
from hpt_megatron.algorithms.objective.preference import Kto, mismatched_drift
from hpt_megatron.algorithms.objective.sft import Sft
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.protocol.rows import Rows

NAMES = ["dpo", "ipo", "simpo", "orpo", "kto", "imitate", "bradley_terry"]
SETTINGS = {"dpo": {"label_smoothing": 0.1}, "bradley_terry": {"margin": 0.5, "center": 0.01}}


def minus_log_sigmoid(x):
    return (1 + (-x).exp()).log()


def direct(name, chosen, rejected, chosen_ref, rejected_ref, drift=0.0):
    """The loss of one pair from the log-probs of its tokens, as the papers write it."""
    ratio_c, ratio_r = chosen.sum() - chosen_ref, rejected.sum() - rejected_ref
    if name == "dpo":
        m = 0.1 * (ratio_c - ratio_r)
        return 0.9 * minus_log_sigmoid(m) + 0.1 * minus_log_sigmoid(-m)
    if name == "ipo":
        return (ratio_c - ratio_r - 5.0) ** 2
    if name == "simpo":
        return minus_log_sigmoid(2.0 * (chosen.mean() - rejected.mean()) - 1.0)
    if name == "orpo":
        odds = [p / (1 - p) for p in (chosen.mean().exp(), rejected.mean().exp())]
        return -chosen.mean() + 0.1 * minus_log_sigmoid((odds[0] / odds[1]).log())
    if name == "imitate":
        return -chosen.mean()
    if name == "kto":
        wrong = [1 - 1 / (1 + (-0.1 * x).exp()) for x in (ratio_c - drift, drift - ratio_r)]
        return (wrong[0] + wrong[1]) / 2
    return minus_log_sigmoid(chosen.sum() - rejected.sum() - 0.5) + 0.01 * (chosen.sum() + rejected.sum()) ** 2


def packed(lengths, seed=0):
    """Rows with one token of the prompt before those that are trained, and log-probs of all of them."""
    generator = torch.Generator().manual_seed(seed)
    rows = Rows(torch.tensor(lengths) + 1, {}, {"valid": torch.ones(len(lengths), dtype=torch.bool)})
    rows = rows.with_tokens(trained=rows.position > 0)
    logp = -3 * torch.rand(rows.num_tokens, generator=generator, dtype=torch.float64) - 0.01
    return rows, logp, -4 * torch.rand(len(lengths), generator=generator, dtype=torch.float64)


def sums_of(rows, logp):
    return rows.row_sum(torch.where(rows.tokens["trained"], logp, 0.0))


def tokens_of(rows, logp, row):
    start, end = int(rows.starts[row]), int(rows.starts[row] + rows.lengths[row])
    return logp[start + 1 : end]


def made(name):
    return PAIRWISE.get(name)(**SETTINGS.get(name, {}))


def answered(name, rows, logp, reference, pairs, drift=0.3):
    return pairwise_weights(rows, pairs, RowSums(sums_of(rows, logp), reference, drift), made(name))


def pairs_of(*pairs):
    return Pairs(torch.tensor([c for c, _ in pairs]), torch.tensor([r for _, r in pairs]))


def test_the_examples_of_the_modules_hold():
    assert doctest.testmod(frame) == (0, 4)
    assert doctest.testmod(preference) == (0, 1)


def test_an_unknown_loss_is_refused_by_listing_the_known():
    assert PAIRWISE.names() == NAMES
    with pytest.raises(UserError, match="no such pairwise loss: slic") as refused:
        PAIRWISE.get("slic")
    assert ", ".join(NAMES) in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_weighted_sum_has_the_gradient_and_the_loss_of_the_formula(name):
    """Three pairs with one row in two of them. Scores stand on the last token alone, log-probs on every trained one."""
    rows, logp, reference = packed([3, 5, 1, 4, 2])
    chosen_rejected = [(0, 1), (2, 3), (4, 1)]
    if name == "bradley_terry":
        logp = torch.where(torch.isin(torch.arange(rows.num_tokens), rows.last(rows.tokens["trained"])), logp, 0.0)
    leaf = logp.clone().requires_grad_()
    losses = [
        direct(name, tokens_of(rows, leaf, c), tokens_of(rows, leaf, r), reference[c], reference[r], 0.3)
        for c, r in chosen_rejected
    ]
    expected = torch.autograd.grad(sum(losses) / 3, leaf)[0]
    if name == "bradley_terry":
        expected = torch.where(logp != 0, expected, 0.0)
    found = answered(name, rows, logp, reference, pairs_of(*chosen_rejected))
    assert found.metrics["pairs/loss"] == pytest.approx(sum(losses).item() / 3, rel=1e-12)
    assert (-found.weight).double().tolist() == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-12)
    assert found.weight.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES[:6])
def test_the_sft_component_with_these_weights_has_that_gradient_on_any_split(name):
    rows, logp, reference = packed([3, 5, 1, 4])
    weight = answered(name, rows, logp, reference, pairs_of((0, 1), (2, 3))).weight.double()

    def gradient(*cuts):
        leaf = logp.clone().requires_grad_()
        for start, end in pairwise([0, *cuts, len(logp)]):
            part = slice(start, end)
            Sft()(View.of_rows(leaf[part], weight[part], rows.row_of_token[part])).loss.backward()
        return leaf.grad.tolist()

    assert gradient() == (-weight).tolist()
    assert gradient(4, 10) == gradient(2) == gradient()


def test_the_weights_of_dpo_are_as_worked_out():
    """m = 0.1 ((-1 + 2) - (-3 + 2)) = 0.2; sigma(-0.2) = 0.450166; two pairs would halve it."""
    rows = Rows.from_lists({"trained": [[True], [True, True]]}, valid=[True, True])
    sums = RowSums(torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -2.0]))
    found = pairwise_weights(rows, pairs_of((0, 1)), sums, PAIRWISE.get("dpo")())
    assert found.weight.tolist() == pytest.approx([0.0450166, -0.0450166, -0.0450166], abs=1e-7)
    assert found.metrics["pairs/loss"] == pytest.approx(0.598139, abs=1e-6)
    assert found.metrics["pairs/margin"] == pytest.approx(0.2, abs=1e-9)
    assert found.metrics["pairs/accuracy"] == 1.0


@pytest.mark.parametrize(("name", "loss"), [("dpo", math.log(2)), ("ipo", 25.0), ("kto", 0.5), ("bradley_terry", None)])
def test_the_loss_before_the_first_step_is_the_known_one(name, loss):
    """Policy and reference agree; scores are equal, where the reward model's loss is log 2."""
    rows, logp, _ = packed([3, 3])
    sums = sums_of(rows, logp)
    if loss is None:
        found = pairwise_weights(rows, pairs_of((0, 1)), RowSums(torch.ones(2)), PAIRWISE.get(name)())
        assert found.metrics["pairs/loss"] == pytest.approx(math.log(2))
        assert found.metrics["pairs/accuracy"] == 0.5
        return
    found = pairwise_weights(rows, pairs_of((0, 1)), RowSums(sums, sums), PAIRWISE.get(name)())
    assert found.metrics["pairs/loss"] == pytest.approx(loss)


def test_a_pairs_own_margin_and_the_constant_add_up():
    rows = Rows.from_lists({"trained": [[True], [True]]}, valid=[True, True])
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), margin=torch.tensor([0.5]))
    loss = PAIRWISE.get("bradley_terry")(margin=0.25)
    found = pairwise_weights(rows, pairs, RowSums(torch.tensor([1.0, 0.25])), loss)
    assert found.metrics["pairs/loss"] == pytest.approx(math.log(2))
    assert found.weight.tolist() == pytest.approx([0.5, -0.5])


def test_kto_takes_rows_without_a_partner_and_weighs_the_kinds():
    """r - z = 0 for all: sigma' = 1/4, beta 0.1, over three rows."""
    rows = Rows.from_lists({"trained": [[True], [True], [True]]}, valid=[True] * 3)
    sums = RowSums(torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.5, -1.5, -1.5]), drift=0.5)
    pairs = Pairs(torch.tensor([0, 1]), torch.tensor([2]))
    found = pairwise_weights(rows, pairs, sums, Kto(desirable=1.0, undesirable=2.0))
    assert found.weight.tolist() == pytest.approx([0.025 / 3, 0.025 / 3, -0.05 / 3])
    assert found.metrics["pairs/count"] == 3
    below, at_zero = (RowSums(sums.policy, sums.reference, drift) for drift in (-9.0, 0.0))
    below, at_zero = (pairwise_weights(rows, pairs, numbers, Kto()).weight for numbers in (below, at_zero))
    assert torch.equal(below, at_zero), "a distance is never below 0"
    assert mismatched_drift(torch.tensor([-1.0, -3.0, math.nan]), torch.tensor([-2.0, -2.5, 0.0])) == 0.25
    assert mismatched_drift(torch.zeros(0), torch.zeros(0)) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_that_does_not_count_moves_nothing_and_is_counted(name):
    """Not valid, without a trained token, or with a sum that is no number."""
    rows, logp, reference = packed([3, 5, 1, 4])
    alone = answered(name, rows, logp, reference, pairs_of((0, 1)))
    assert alone.weight.abs().sum() > 0
    losses = 2 if name == "kto" else 1
    for broken in ("valid", "trained", "sum", "infinite"):
        changed, numbers = rows, sums_of(rows, logp)
        if broken == "valid":
            changed = rows.with_fields(valid=torch.tensor([True, True, False, False]))
        elif broken == "trained":
            changed = rows.with_tokens(trained=rows.tokens["trained"] & (rows.row_of_token < 2))
        else:
            numbers[2:] = math.nan if broken == "sum" else -math.inf
        found = pairwise_weights(changed, pairs_of((0, 1), (2, 3)), RowSums(numbers, reference, 0.3), made(name))
        assert torch.equal(found.weight, alone.weight), broken
        assert found.metrics == {**alone.metrics, "pairs/left_out": losses}


@pytest.mark.parametrize("lost", [2, 3])
@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "orpo", "bradley_terry"])
def test_a_pair_needs_both_of_its_rows(name, lost):
    rows, logp, reference = packed([3, 5, 1, 4])
    alone = answered(name, rows, logp, reference, pairs_of((0, 1)))
    changed = rows.with_fields(valid=torch.arange(4) != lost)
    found = answered(name, changed, logp, reference, pairs_of((0, 1), (2, 3)))
    assert torch.equal(found.weight, alone.weight)
    assert found.metrics == {**alone.metrics, "pairs/left_out": 1}


@pytest.mark.parametrize("name", NAMES)
def test_no_pair_at_all_gives_weights_of_zero_and_no_mean(name):
    rows, logp, reference = packed([3, 5])
    none = torch.zeros(0, dtype=torch.int64)
    found = answered(name, rows, logp, reference, Pairs(none, none))
    assert found.weight.tolist() == [0.0] * rows.num_tokens
    assert found.metrics == {"pairs/count": 0.0, "pairs/left_out": 0.0}


@pytest.mark.parametrize("name", NAMES)
@given(st.permutations(range(6)), st.permutations(range(4)), st.integers(0, 99))
def test_the_order_of_rows_and_of_pairs_does_not_matter(name, row_order, pair_order, seed):
    rows, logp, reference = packed([3, 5, 1, 4, 2, 2], seed)
    pairs = [(0, 1), (2, 3), (4, 5), (0, 3)]
    plain = answered(name, rows, logp, reference, pairs_of(*pairs))
    order = torch.tensor(row_order)
    moved = rows.with_tokens(logp=logp, place=torch.arange(rows.num_tokens)).select(order)
    now_at = {old: new for new, old in enumerate(row_order)}
    shuffled = pairs_of(*((now_at[pairs[i][0]], now_at[pairs[i][1]]) for i in pair_order))
    found = answered(name, moved, moved.tokens["logp"], reference[order], shuffled)
    assert found.weight.tolist() == pytest.approx(plain.weight[moved.tokens["place"]].tolist(), rel=1e-6, abs=1e-12)
    assert found.metrics == pytest.approx(plain.metrics)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chosen", [0.0, -1e-9, -1.0, -1e4, -8e7])
@pytest.mark.parametrize("rejected", [0.0, -1e-9, -1.0, -1e4, -8e7])
def test_extreme_sums_give_finite_weights(name, chosen, rejected):
    """From certainty to 8,192 tokens of log-prob -10000 each."""
    rows = Rows.from_lists({"trained": [[True], [True, True]]}, valid=[True, True])
    sums = RowSums(torch.tensor([chosen, rejected]), torch.tensor([rejected, chosen]), drift=1e6)
    found = pairwise_weights(rows, pairs_of((0, 1)), sums, made(name))
    assert torch.isfinite(found.weight).all()
    assert all(math.isfinite(value) for value in found.metrics.values())


def test_what_cannot_be_compared_is_refused():
    rows, logp, _ = packed([3, 5])
    for name in ("dpo", "ipo", "kto"):
        with pytest.raises(HptError, match="no sums of one"):
            answered(name, rows, logp, None, pairs_of((0, 1)))
    for name in ("simpo", "orpo"):
        assert answered(name, rows, logp, None, pairs_of((0, 1))).weight.abs().sum() > 0
    with pytest.raises(HptError, match="2 chosen and 1 rejected"):
        answered("simpo", rows, logp, None, Pairs(torch.tensor([0, 0]), torch.tensor([1])))
    for name in ("dpo", "ipo", "simpo", "kto"):
        with pytest.raises(UserError, match="leaves nothing to compare"):
            PAIRWISE.get(name)(beta=0.0)
    with pytest.raises(UserError, match="of the pairs"):
        PAIRWISE.get("dpo")(label_smoothing=0.5)
