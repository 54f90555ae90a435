"""Where the released code does something odd, what ours does. The numbers in the names are those of the record of them
that the tests were written from: 14, 15, 18, 19, 32, 33, 35, 36, 37. That no setting is ignored (34) is shown for every
component in `test_objective_properties.py`.
"""

from itertools import product
from math import inf, log

import pytest
import torch
from objective_cases import ALL, CASES, random_batch, run

from hpt_megatron.algorithms.objective.entropy import Entropy
from hpt_megatron.algorithms.objective.gspo import Gspo
from hpt_megatron.algorithms.objective.kl import KL_ESTIMATORS, Kl
from hpt_megatron.algorithms.objective.off_policy import OffPolicy
from hpt_megatron.algorithms.objective.part import View
from hpt_megatron.algorithms.objective.policy import Clip, Unclipped
from hpt_megatron.algorithms.objective.sft import Sft
from hpt_megatron.algorithms.objective.srft import SrftRl, SrftSft


def rows_of(lengths, **columns) -> dict:
    """Whole rows, float64, weight 1 unless given."""
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    made = {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}
    made.setdefault("weight", torch.ones(len(row), dtype=torch.float64))
    return {"row_of_token": row, **made}


def gradient(component, columns: dict) -> torch.Tensor:
    logp = columns["logp"].clone().requires_grad_()
    return torch.autograd.grad(component(View.of_rows(**{**columns, "logp": logp})).loss, logp)[0]


@pytest.mark.parametrize("empty", ["rl", "sft"])
def test_14_a_batch_without_rollouts_or_without_demonstrations_has_a_finite_loss(empty):
    """The released token mean divides by a count of zero. Here the empty part is 0 and the other is as it is alone."""
    batch = random_batch([3, 4], 0)
    parts = {"rl": Clip(), "sft": Sft()}
    used = torch.full_like(batch.weight, 1 / 7)
    outcomes = {}
    for stream, component in parts.items():
        columns = {name: column for name, column in batch.columns.items() if name not in ("value", "kl_full")}
        weight = torch.zeros_like(used) if stream == empty else used
        outcomes[stream] = component(View.of_rows(weight=weight, row_of_token=batch.row, **columns)).loss.item()
    assert outcomes.pop(empty) == 0.0
    (other,) = outcomes.values()
    assert other != 0
    assert abs(other) < inf


def test_15_the_clip_fraction_counts_clipped_tokens_although_clipping_is_on():
    columns = rows_of([4], logp=[-1.0] * 4, old_logp=[-1.0, -2.0, -0.1, -2.0], credit=[1.0, 1.0, -1.0, -1.0])
    total, count = Clip()(View.of_rows(**columns)).metrics["actor/pg_clipfrac"]
    assert (total.item(), count.item()) == (2.0, 4.0)


def test_18_demonstrations_can_be_left_out_of_the_entropy_bonus_by_their_weight():
    """All rows take part in the released code. Here a weight of 0 keeps a demonstration out, value and gradient."""
    entropy = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64, requires_grad=True)
    for weight, expected in (([0.5, 0.5, 0.5], -2.25), ([0.5, 0.5, 0.0], -1.0)):
        columns = rows_of([2, 1], logp=[-1.0] * 3, weight=weight)
        loss = Entropy()(View.of_rows(**columns, entropy=entropy)).loss
        assert loss.item() == expected
        assert torch.autograd.grad(loss, entropy)[0].tolist() == [-w for w in weight]


def test_19_a_row_that_goes_on_from_a_demonstration_is_imitated_there_and_explored_behind():
    """The released branch imitates all of such a row. Here the weights are per token; a mean over the row, as gspo
    needs it, runs over the tokens of its own stream.
    """
    columns = rows_of([4], logp=[-1.0, -2.0, -3.0, -4.0], old_logp=[-9.0, -9.0, -3.1, -4.3], credit=[2.0] * 4)
    shown = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert gradient(Sft(), {**columns, "weight": shown}).tolist() == [-1.0, -1.0, 0.0, 0.0]
    explored = gradient(Gspo(clip_high=1.0), {**columns, "weight": 1 - shown})
    mean_ratio = torch.tensor(0.2, dtype=torch.float64).exp().item()
    assert explored.tolist() == pytest.approx([0.0, 0.0, -2 * mean_ratio, -2 * mean_ratio])


FAMILIES = {
    "sft": [Clip(), Sft()],
    "off_policy": [Unclipped(), OffPolicy(reshape="p_div_p_0.1")],
    "switch_off_sft": [Unclipped(), OffPolicy(), Sft()],
    "srft": [SrftRl(), OffPolicy(), SrftSft()],
}


@pytest.mark.parametrize(("family", "estimator"), list(product(FAMILIES, KL_ESTIMATORS.names())))
def test_32_a_kl_loss_goes_with_every_loss_on_demonstrations(family, estimator):
    """In the released code metrics overwrite the batch and the KL then crashes. Here parts add up, in any order, and no
    two of them report under one name.
    """
    batch = random_batch([3, 4], 1)
    components = [*FAMILIES[family], Kl(estimator=estimator), Entropy()]
    outcomes = [run(component, batch) for component in components]
    again = [run(component, batch) for component in reversed(components)]
    assert sum(o.loss for o in outcomes).item() == pytest.approx(sum(o.loss for o in again).item())
    names = [name for outcome in outcomes for name in outcome.metrics]
    assert len(names) == len(set(names))
    assert "actor/kl_loss" in names


def test_33_the_off_policy_part_has_a_coefficient_of_its_own():
    """It is in the weights of the stream: twice the weight is twice the loss and the gradient, for every component."""
    batch = random_batch([3, 4], 2)
    for kind, component in ALL:
        single = run(component, batch)
        double = run(component, type(batch)(batch.row, 2 * batch.weight, batch.columns))
        torch.testing.assert_close(double.loss, 2 * single.loss, msg=kind)
        torch.testing.assert_close(double.gradient, 2 * single.gradient, msg=kind)
        assert double.metrics == single.metrics


LOGP = [-0.5, -1.5, -2.5, -0.2]


@pytest.mark.parametrize("component", [one for one in CASES["off_policy"] if one.impl == "seq"], ids=str)
def test_35_seq_is_the_gradient_of_the_loss_on_the_rows_likelihood_per_token(component):
    """|row| (-A f(p)) with p the geometric mean of the row, differentiated as a whole; rows of 3 and of 1."""
    columns = rows_of([3, 1], logp=LOGP, credit=[2.0, 2.0, 2.0, -1.0], accept=[1.0] * 4, target_logp=[-1.0] * 4)
    alone = type(component)(**{**vars(component), "impl": "token"})
    logp = columns["logp"].clone().requires_grad_()
    short = rows_of([1, 1], logp=[0.0, 0.0], credit=[2.0, -1.0], accept=[1.0, 1.0], target_logp=[-1.0, -1.0])
    short["logp"] = torch.stack([logp[:3].mean(), logp[3]])
    short["weight"] = torch.tensor([3.0, 1.0], dtype=torch.float64)
    whole = alone(View.of_rows(**short)).loss
    expected = torch.autograd.grad(whole, logp)[0]
    torch.testing.assert_close(gradient(component, columns), expected)
    assert component(View.of_rows(**columns)).loss.item() == pytest.approx(whole.item())


def srft(**settings):
    """Success and failure by turns: each within the clip, above it and below it."""
    ratios = torch.tensor([1.1, 1.1, 1.3, 1.3, 0.7, 0.7], dtype=torch.float64)
    columns = rows_of([1] * 6, logp=[-1.0] * 6, success=[1.0, 0.0] * 3, entropy=[0.0] * 6)
    columns["old_logp"] = columns["logp"] - ratios.log()
    component = SrftRl(**settings)
    view = View.of_rows(**columns)
    return component.surrogate(view, view.logp - view.stored["old_logp"])[0].tolist(), gradient(component, columns)


def test_36_clipping_in_srft_clamps_the_ratio_and_not_the_log_prob():
    """The released clamp to [0.8, 1.2] makes every log-prob 0.8. Here a success stops above ratio 1.2 and a failure
    below 0.8, where the loss has the value at the bound.
    """
    free, learned = srft()
    assert free == pytest.approx([0.1, -1.0] * 3)
    assert learned.tolist() == pytest.approx([-0.1, 1.0] * 3)
    clipped, learned = srft(clip_low=0.2, clip_high=0.2)
    above, below = -1.0 - log(1.3) + log(1.2), -1.0 - log(0.7) + log(0.8)
    assert clipped == pytest.approx([0.1, -1.0, -0.1 * above, -1.0, 0.1, below])
    assert learned.tolist() == pytest.approx([-0.1, 1.0, 0.0, 1.0, -0.1, 0.0])


def test_37_a_failed_row_of_srft_stops_at_the_floor_and_minus_infinity_releases_it():
    columns = rows_of([3], logp=[-1.0, -9.9, -400.0], old_logp=[-1.0] * 3, success=[0.0] * 3, entropy=[1.0] * 3)
    assert SrftRl()(View.of_rows(**columns)).loss.item() == pytest.approx(-1.0 - 9.9 - 10.0)
    assert gradient(SrftRl(), columns).tolist() == [1.0, 1.0, 0.0]
    released = SrftRl(negative_floor=-inf)
    assert released(View.of_rows(**columns)).loss.item() == pytest.approx(-1.0 - 9.9 - 400.0)
    assert gradient(released, columns).tolist() == [1.0, 1.0, 1.0]
