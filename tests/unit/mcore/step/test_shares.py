"""What each component has of a step, by value, and that looking changes nothing."""

from types import SimpleNamespace

import pytest
import torch

from hpt_megatron.algorithms.objective.entropy import Entropy
from hpt_megatron.algorithms.objective.policy import Clip
from hpt_megatron.algorithms.objective.sft import Sft
from hpt_megatron.mcore.model.stage import Said
from hpt_megatron.mcore.step import objective
from hpt_megatron.mcore.step.objective import total_loss
from hpt_megatron.mcore.step.shares import shares

ALONE = SimpleNamespace(size=lambda: 1)
COMPONENTS = [Clip(), Entropy(), Sft()]


def pack_of(**columns):
    count = len(next(iter(columns.values())))
    return SimpleNamespace(
        columns={name: torch.tensor(column) for name, column in columns.items()},
        row=torch.tensor([0, 0, 1, 1, 2][:count]),
        num_rows=3,
        pictured=torch.tensor([True, True, False, False, False][:count]),
    )


PACK = pack_of(
    weight_rl=[0.5, 0.5, 0.25, 0.0, 0.0],
    weight_entropy=[0.1, 0.0, 0.0, 0.0, 0.0],
    weight_sft=[0.0, 0.0, 0.0, 0.3, 0.0],
    credit=[2.0, -1.0, 4.0, 7.0, 7.0],
    rollout_logp=[-1.5, -1.0, -4.0, 0.0, 0.0],
)
LOGP, ENTROPY = [-1.0, -2.0, -3.0, -4.0, -5.0], [0.1, 0.2, 0.3, 0.4, 9.0]


def said():
    return Said(
        logp=torch.tensor(LOGP, dtype=torch.float64, requires_grad=True),
        entropy=torch.tensor(ENTROPY, dtype=torch.float64, requires_grad=True),
    )


def means(found):
    return {name: float(total) / float(count) for name, (total, count) in found.items() if float(count)}


def test_tokens_gradients_and_entropies_are_shared_out_by_value():
    _, _, metrics = total_loss(PACK, said(), COMPONENTS, ALONE)
    told = means(metrics)
    assert told["token_share/rl"] == pytest.approx(3 / 4)
    assert told["token_share/sft"] == pytest.approx(1 / 4)
    assert told["token_share/entropy"] == pytest.approx(1 / 4)
    squares = {"rl": 1.0**2 + 0.5**2 + 1.0**2, "entropy": 0.1**2, "sft": 0.3**2}
    for name, square in squares.items():
        assert told[f"grad_share/{name}"] == pytest.approx(square / sum(squares.values()))
    assert told["entropy/rl"] == pytest.approx(0.2)
    assert told["entropy/sft"] == pytest.approx(0.4)
    assert told["actor/entropy_loss"] == pytest.approx(0.25), "the last token has no weight"


def test_the_gap_to_the_engine_is_told_by_what_a_row_shows():
    told = means(total_loss(PACK, said(), COMPONENTS, ALONE)[2])
    assert told["correction/abs_gap_images"] == pytest.approx((0.5 + 1.0) / 2)
    assert told["correction/abs_gap_text"] == pytest.approx(1.0)


def test_looking_changes_neither_the_loss_nor_the_gradient(monkeypatch):
    looked = said()
    loss, _, _ = total_loss(PACK, looked, COMPONENTS, ALONE)
    loss.backward()
    monkeypatch.setattr(objective, "shares", lambda *given: {})
    plain = said()
    same, _, _ = total_loss(PACK, plain, COMPONENTS, ALONE)
    same.backward()
    assert loss.item() == same.item()
    assert torch.equal(looked.logp.grad, plain.logp.grad)
    assert torch.equal(looked.entropy.grad, plain.entropy.grad)


def test_micro_batches_add_up_to_the_whole():
    whole = means(total_loss(PACK, said(), COMPONENTS, ALONE)[2])
    added = {}
    for part in (slice(0, 2), slice(2, 5)):
        cut = SimpleNamespace(
            columns={name: column[part] for name, column in PACK.columns.items()},
            row=PACK.row[part],
            num_rows=3,
            pictured=PACK.pictured[part],
        )
        every = said()
        own = Said(logp=every.logp[part], entropy=every.entropy[part])
        for name, (total, count) in total_loss(cut, own, COMPONENTS, ALONE)[2].items():
            before = added.get(name, (0.0, 0.0))
            added[name] = (before[0] + float(total), before[1] + float(count))
    # Shares of the gradient have the square of all components as their count, so they add up as well.
    assert {name: total / count for name, (total, count) in added.items() if count} == pytest.approx(whole)


def test_a_step_in_which_a_component_has_nothing_is_no_failure():
    nothing = pack_of(weight_rl=[0.0], credit=[1.0])
    answer = Said(logp=torch.zeros(1, requires_grad=True), entropy=torch.zeros(1, requires_grad=True))
    told = total_loss(nothing, answer, COMPONENTS, ALONE)[2]
    assert all(
        float(total) == 0.0 for name, (total, _) in told.items() if name.startswith(("grad", "token", "entropy"))
    )
    value = Said(value=torch.zeros(1))
    assert shares(nothing, value, {"value": torch.zeros(())}, {"value": torch.zeros(1)}) == {}
