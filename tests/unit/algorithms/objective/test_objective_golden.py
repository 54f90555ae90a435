"""Numbers worked out by hand for three small rows, with the weights that the released normalisation gives.

L = 4. Row A: credit .75, 3 tokens. Row B: credit -.25, 4 tokens. Row D: a demonstration of 2 tokens, credit 1.
Not covered: where the weights come from; they are written out here.
"""

import pytest
import torch

from hpt_megatron.algorithms.objective.entropy import Entropy
from hpt_megatron.algorithms.objective.off_policy import OffPolicy
from hpt_megatron.algorithms.objective.part import Part, View
from hpt_megatron.algorithms.objective.policy import Clip, Unclipped
from hpt_megatron.algorithms.objective.sft import Sft
from hpt_megatron.algorithms.objective.srft import SrftRl, SrftSft

LENGTH = 4
P = torch.tensor([0.5, 0.8, 0.2, 0.4, 0.5, 0.25, 0.1, 0.1, 0.4], dtype=torch.float64)
RATIO = torch.tensor([1.0, 1.25, 0.5, 1.5, 1.0, 0.7, 1.1, 1.0, 1.0], dtype=torch.float64)
ROW = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])
COLUMNS = {
    "old_logp": (P / RATIO).log(),
    "credit": torch.tensor([0.75, -0.25, 1.0], dtype=torch.float64)[ROW],
    "entropy": torch.tensor([0.5, 0.7, 1.1, 0.9, 0.8, 1.2, 0.6, 1.5, 1.0], dtype=torch.float64),
    "success": torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)[ROW],
}
ON, DEMO, ALL = ROW < 2, ROW == 2, ROW >= 0


def part(component, where: torch.Tensor, weight: float, logp: torch.Tensor | None = None) -> Part:
    view = View.of_rows(P.log() if logp is None else logp, where.double() * weight, ROW, **COLUMNS)
    return component(view)


def loss(component, where: torch.Tensor, weight: float) -> float:
    return part(component, where, weight).loss.item()


def mean(component, where: torch.Tensor, metric: str) -> float:
    total, count = part(component, where, 1.0).metrics[metric]
    return (total / count).item()


def near(value: float):
    return pytest.approx(value, abs=6e-9)


@pytest.mark.parametrize(
    ("component", "terms"),
    [
        (Unclipped(), [-0.75, -0.9375, -0.375, 0.375, 0.25, 0.175, 0.275]),
        (Clip(), [-0.75, -0.9, -0.375, 0.375, 0.25, 0.2, 0.275]),
    ],
)
def test_each_token_of_a_rollout_has_the_loss_worked_out_by_hand(component, terms):
    one_at_a_time = [loss(component, torch.arange(9) == token, 1.0) for token in range(7)]
    assert one_at_a_time == pytest.approx(terms, abs=1e-12)


@pytest.mark.parametrize(
    ("component", "weight", "expected"),
    [
        (Unclipped(), 1 / LENGTH, -0.246875),
        (Clip(), 1 / LENGTH, -0.23125),
        (Unclipped(), 1 / 7, -0.14107143),
        (Clip(), 1 / 7, -0.13214286),
        (Clip(), 1 / 2, -0.4625),
    ],
    ids=["sum over L", "clipped, sum over L", "token mean", "clipped, token mean", "paper: over n = 2"],
)
def test_the_policy_loss_of_the_rollouts_is_as_worked_out(component, weight, expected):
    assert loss(component, ON, weight) == near(expected)


def test_clip_fraction_and_kl_of_the_rollouts_are_as_worked_out():
    assert mean(Clip(), ON, "actor/pg_clipfrac") == near(2 / 7)
    assert mean(Clip(), ON, "actor/ppo_kl") == near(0.04655761)


def test_imitation_and_entropy_are_as_worked_out():
    assert loss(Sft(), DEMO, 1 / 2) == near(1.60943791)
    assert mean(Sft(), DEMO, "actor/sft_loss") == near(1.60943791)
    assert loss(Entropy(), ALL, 1 / 9) == near(-0.92222222)
    assert mean(Entropy(), ALL, "actor/entropy_loss") == near(0.92222222)


@pytest.mark.parametrize(
    ("component", "on", "coefficient", "pg", "total"),
    [
        (Unclipped(), 1 / LENGTH, 1.0, 1.36256291, 1.36164069),
        (Unclipped(), 1 / LENGTH, 0.3, 0.23595637, 0.23503415),
        (Clip(), 1 / LENGTH, 1.0, 1.37818791, 1.37726569),
        (Clip(), 1 / LENGTH, 0.3, 0.25158137, 0.25065915),
        (Unclipped(), 1 / 7, 1.0, 1.46836648, 1.46744426),
        (Unclipped(), 1 / 7, 0.3, 0.34175995, 0.34083772),
    ],
)
def test_rl_with_imitation_and_entropy_bonus_is_as_worked_out(component, on, coefficient, pg, total):
    """`offline_loss_type=sft`, entropy coefficient 0.001."""
    found = loss(component, ON, on) + loss(Sft(), DEMO, coefficient / 2)
    assert found == near(pg)
    assert found + loss(Entropy(), ALL, 0.001 / 9) == near(total)


@pytest.mark.parametrize(
    ("reshape", "off", "over_length", "token_mean"),
    [
        ("no_reshape", -0.25, -0.371875, -0.16527778),
        ("logp", 0.16094379, -0.1664031, -0.07395694),
        ("p_logp", -0.08905621, -0.2914031, -0.12951249),
        ("square_root", -0.47434165, -0.48404582, -0.21513148),
        ("pow", -0.47434165, -0.48404582, -0.21513148),
        ("p_div_p_0.1", -0.65, -0.571875, -0.25416667),
        ("p_div_p_0.3", -0.41071429, -0.45223214, -0.20099206),
        ("p_div_p_0.5", -0.30555556, -0.39965278, -0.17762346),
    ],
)
def test_off_policy_rl_with_every_shape_is_as_worked_out(reshape, off, over_length, token_mean):
    shaped = OffPolicy(reshape=reshape)
    assert mean(shaped, DEMO, "actor/off_pg_loss") == near(off)
    for weight, expected in ((1 / LENGTH, over_length), (1 / 9, token_mean)):
        assert loss(Unclipped(), ON, weight) + loss(shaped, DEMO, weight) == near(expected)


def test_bounds_on_the_shaped_likelihood_hold_it_and_are_counted():
    """p .1 and .4: each bound holds one token, reported by its side."""
    for bounds, value, above, below in (({"max_clip": 0.3}, 0.3, 0.5, 0.0), ({"min_clip": 0.2}, 0.2, 0.0, 0.5)):
        held = OffPolicy(**bounds)
        other = 0.1 if above else 0.4
        assert loss(held, DEMO, 1.0) == near(-value - other)
        assert mean(held, DEMO, "actor/off_ratio_mean") == near((value + other) / 2)
        assert mean(held, DEMO, "actor/off_ratio_max_clip_frac") == above
        assert mean(held, DEMO, "actor/off_ratio_min_clip_frac") == below
        assert mean(held, DEMO, "actor/off_policy_prob") == near(0.25)


def test_the_saturating_shape_has_the_values_worked_out():
    values = [-loss(OffPolicy(reshape="p_div_p_0.1"), torch.arange(9) == token, 1.0) for token in (7, 8)]
    assert values == pytest.approx([0.5, 0.8])


def test_switch_off_sft_is_the_sum_of_its_streams():
    """sft coefficient 0.1, off coefficient 1: the coefficients are in the weights, so no component is needed for it."""
    found = loss(Unclipped(), ON, 1 / LENGTH)
    found += loss(OffPolicy(reshape="p_div_p_0.1"), DEMO, 1 / LENGTH) + loss(Sft(), DEMO, 0.1 / 2)
    assert found == near(-0.41093121)


def test_srft_is_as_worked_out():
    imitation, exploration = SrftSft(), SrftRl()
    assert mean(imitation, DEMO, "srft/demo_H") == near(1.25)
    assert mean(imitation, DEMO, "srft/sft_coef") == pytest.approx(0.1432524, abs=1e-7)
    assert mean(exploration, ROW == 0, "srft/H") == pytest.approx(0.7666667, abs=1e-7)
    assert mean(exploration, ROW == 1, "srft/H") == near(0.875)
    assert mean(exploration, ROW == 0, "srft/on_coef") == pytest.approx(0.2152579, abs=1e-7)
    assert mean(exploration, ON, "actor/on_pg_loss") == near(-0.67923347)
    sft = loss(imitation, DEMO, 1 / 2)
    pg = loss(exploration, ON, 1 / LENGTH) + loss(OffPolicy(reshape="p_div_p_0.1"), DEMO, 1 / LENGTH)
    assert sft == near(0.23055584)
    assert pg == near(-1.51365858)
    assert sft + pg == near(-1.28310274)


@pytest.mark.parametrize(
    ("component", "weights"),
    [
        (Sft(), [1.0, 1.0]),
        (OffPolicy(), [0.1, 0.4]),
        (OffPolicy(reshape="p_div_p_0.1"), [0.25, 0.16]),
    ],
)
def test_the_gradient_weight_of_demonstration_tokens_is_as_worked_out(component, weights):
    logp = P.log().requires_grad_()
    part(component, DEMO, 1.0, logp).loss.backward()
    assert (-logp.grad[7:]).tolist() == pytest.approx(weights)
    assert not logp.grad[:7].any()


def test_the_weights_alone_say_how_demonstrations_of_unequal_length_are_averaged():
    """100 tokens with a loss of 1, 900 with a loss of 3: pooled, by row, and pooled in two micro-batches."""
    row = torch.arange(2).repeat_interleave(torch.tensor([100, 900]))
    logp = -torch.tensor([1.0, 3.0], dtype=torch.float64)[row]

    def total(weight: torch.Tensor) -> float:
        return Sft()(View.of_rows(logp, weight, row)).loss.item()

    length = torch.tensor([100.0, 900.0], dtype=torch.float64)[row]
    assert total(torch.full_like(logp, 1 / 1000)) == pytest.approx(2.8)
    assert total(1 / (2 * length)) == pytest.approx(2.0)
    assert total(1 / length) == pytest.approx(4.0)
