"""The unified view: its four parts give the gradient that autograd finds in the losses.

Two sides that share no code: the loss components with autograd in float64, and `unified` in plain Python together with
the derivative of a softmax written out by hand. Not covered: where the advantages come from.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import exp

import pytest
import torch
from objective_cases import ALL, IDS, random_batch, run
from torch import Tensor

from hpt_megatron.algorithms.objective.cispo import Cispo
from hpt_megatron.algorithms.objective.gspo import Gspo
from hpt_megatron.algorithms.objective.off_policy import OffPolicy
from hpt_megatron.algorithms.objective.part import COMPONENTS, Component, View
from hpt_megatron.algorithms.objective.policy import Clip, Unclipped
from hpt_megatron.algorithms.objective.ratio import LOG_LIMIT
from hpt_megatron.algorithms.objective.sft import Sft
from hpt_megatron.algorithms.objective.srft import SrftRl, SrftSft
from hpt_megatron.algorithms.unified import LIMIT, UNIFIED, Row, describe, gradient_weights, token_parts
from hpt_megatron.errors import UserError

# A policy over 5 tokens in each of 3 states, and three rows of (state, token); the last row is a demonstration.
LOGITS = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
STATES = [[0, 1, 2], [0, 2, 1, 1], [1, 0]]
TOKENS = [[4, 0, 2], [1, 3, 3, 0], [2, 2]]
# log pi - log pi_old, chosen on both sides of the clips and within them.
SHIFTS = [[0.05, 0.4, -0.3], [-0.4, 0.02, 0.3, -0.1], [0.1, -0.2]]
WEIGHTS = [[0.3] * 3, [0.2] * 4, [0.5] * 2]
GROUP = [1.0, 0.0, 1.0]  # scores of the three rows
MEAN, STD = sum(GROUP) / 3, torch.tensor(GROUP).std().item()
CENTRED = [(score - MEAN) / STD for score in GROUP]


def per_token(of_row: list[float]) -> list[list[float]]:
    return [[value] * len(states) for value, states in zip(of_row, STATES, strict=True)]


@dataclass(frozen=True)
class Algorithm:
    """A loss under its usual name: the component, the advantages, which rows it trains, and the weight in closed form.

    The closed form is given (pi, ratio to pi_old, ratio of the row, A).
    """

    kind: str
    component: Component
    credit: list[list[float]]
    rows: tuple[int, ...]
    weight: Callable[[float, float, float, float], float]
    on_policy: bool = False


def within(ratio: float, credit: float, low: float, high: float) -> bool:
    return ratio <= 1 + high if credit > 0 else ratio >= 1 - low


ALGORITHMS = {
    "SFT": Algorithm("sft", Sft(), per_token([1.0] * 3), (2,), lambda p, r, s, a: 1),
    "REINFORCE": Algorithm("none", Unclipped(), per_token([1.0, -1.0, 1.0]), (0, 1), lambda p, r, s, a: a, True),
    "PPO": Algorithm(
        "clip",
        Clip(),
        [[0.5, -1.0, 2.0], [1.0, -0.3, -0.7, 0.9], [0.0, 0.0]],  # as from GAE: another advantage for every token
        (0, 1),
        lambda p, r, s, a: a * r * within(r, a, 0.2, 0.2),
    ),
    "GRPO": Algorithm(
        "clip", Clip(), per_token([0.7, -0.7, 0.0]), (0, 1), lambda p, r, s, a: a * r * within(r, a, 0.2, 0.2)
    ),
    "CISPO": Algorithm(
        "cispo",
        Cispo(clip_low=0.2, clip_high=0.2),
        per_token([0.7, -0.7, 0.0]),
        (0, 1),
        lambda p, r, s, a: a * min(max(r, 0.8), 1.2),
    ),
    "GSPO": Algorithm(
        "gspo",
        Gspo(clip_low=0.04, clip_high=0.1),
        per_token([0.7, -0.7, 0.0]),
        (0, 1),
        lambda p, r, s, a: a * s * within(s, a, 0.04, 0.1),
    ),
    "LUFFY": Algorithm(
        "off_policy",
        OffPolicy(reshape="p_div_p_0.1"),
        per_token(CENTRED),
        (2,),
        lambda p, r, s, a: a * p * 0.1 / (p + 0.1) ** 2,
    ),
    "SRFT, off-policy part": Algorithm(
        "off_policy", OffPolicy(), per_token(CENTRED), (2,), lambda p, r, s, a: a * p * 1.0
    ),
    "SRFT, rollouts": Algorithm(
        "srft_rl", SrftRl(), per_token([0.1 * exp(0.9), -1.0, 0.0]), (0, 1), lambda p, r, s, a: a
    ),
    "SRFT, imitation": Algorithm("srft_sft", SrftSft(), per_token([0.5 * exp(-0.9)] * 3), (2,), lambda p, r, s, a: a),
}


def columns_of(algorithm: Algorithm, logp: list[list[float]]) -> dict[str, list[list[float]]]:
    shifts = [[0.0] * len(row) for row in SHIFTS] if algorithm.on_policy else SHIFTS
    return {
        "old_logp": [[p - d for p, d in zip(*pair, strict=True)] for pair in zip(logp, shifts, strict=True)],
        "credit": algorithm.credit,
        "success": per_token(GROUP),
        "entropy": per_token([0.9] * 3),
    }


def autograd(algorithm: Algorithm, logits: Tensor) -> Tensor:
    """-d loss / d logits, by the component on the trained rows."""
    leaf = logits.clone().requires_grad_()
    table = leaf.log_softmax(-1)
    found = [[table[s, a] for s, a in zip(*row, strict=True)] for row in zip(STATES, TOKENS, strict=True)]
    columns = columns_of(algorithm, [[one.item() for one in row] for row in found])

    def packed(column: list[list[float]]) -> Tensor:
        return torch.tensor([x for row in algorithm.rows for x in column[row]], dtype=torch.float64)

    logp = torch.stack([one for row in algorithm.rows for one in found[row]])
    row_of_token = packed(per_token([0.0, 1.0, 2.0])).long()
    view = View.of_rows(logp, packed(WEIGHTS), row_of_token, **{name: packed(c) for name, c in columns.items()})
    return -torch.autograd.grad(algorithm.component(view).loss, leaf)[0]


def unified(algorithm: Algorithm, logits: Tensor) -> Tensor:
    """sum_t w_t 1_stable (1 / pi_ref) A grad pi, with grad pi of a softmax by hand."""
    probabilities = logits.exp() / logits.exp().sum(-1, keepdim=True)
    logp = [
        [probabilities[s, a].log().item() for s, a in zip(*row, strict=True)]
        for row in zip(STATES, TOKENS, strict=True)
    ]
    columns = columns_of(algorithm, logp)
    total = torch.zeros_like(logits)
    for row in algorithm.rows:
        facts = Row(logp[row], {name: column[row] for name, column in columns.items()})
        tokens = token_parts(algorithm.kind, facts, algorithm.component)
        for state, token, weight, parts in zip(STATES[row], TOKENS[row], WEIGHTS[row], tokens, strict=True):
            p = probabilities[state]
            gradient = -p[token] * p
            gradient[token] += p[token]
            reference = p[token] / parts.ratio
            total[state] += weight * parts.mask / reference * parts.advantage * gradient
    return total


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gradient_of_every_algorithm_is_that_of_the_unified_estimator(name):
    found = autograd(ALGORITHMS[name], LOGITS)
    assert found.abs().max() > 0.01
    torch.testing.assert_close(found, unified(ALGORITHMS[name], LOGITS), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gradient_weight_of_every_algorithm_has_its_closed_form(name):
    algorithm = ALGORITHMS[name]
    table = LOGITS.log_softmax(-1)
    logp = [[table[s, a].item() for s, a in zip(*row, strict=True)] for row in zip(STATES, TOKENS, strict=True)]
    columns = columns_of(algorithm, logp)
    for row in algorithm.rows:
        facts = Row(logp[row], {column: values[row] for column, values in columns.items()})
        logs = [new - old for new, old in zip(logp[row], columns["old_logp"][row], strict=True)]
        whole = exp(sum(logs) / len(logs))
        expected = [
            algorithm.weight(exp(p), exp(log), whole, a)
            for p, log, a in zip(logp[row], logs, algorithm.credit[row], strict=True)
        ]
        assert gradient_weights(algorithm.kind, facts, algorithm.component) == pytest.approx(expected)


def over_all_tokens(component: Component, weight: Tensor, columns: dict[str, Tensor]) -> Tensor:
    """-d loss / d logits of one state, each token weighted by the probability with which it would be seen."""
    leaf = LOGITS[0].clone().requires_grad_()
    view = View.of_rows(leaf.log_softmax(0), weight, torch.arange(5), **columns)
    return -torch.autograd.grad(component(view).loss, leaf)[0]


@pytest.mark.parametrize("name", ["REINFORCE", "PPO", "GRPO", "CISPO", "GSPO"])
def test_in_expectation_the_rl_losses_have_the_gradient_of_the_expected_reward(name):
    """Over tokens sampled from pi_old, near enough that nothing is clipped: sum_a A(a) grad pi(a), in closed form."""
    credit = torch.tensor([1.0, -0.5, 0.3, 2.0, -1.0], dtype=torch.float64)
    near = 0.0 if ALGORITHMS[name].on_policy else 1e-2
    old = (LOGITS[0] + near * torch.tensor([1.0, -1.0, 0.5, 0.0, 1.0], dtype=torch.float64)).log_softmax(0)
    p = LOGITS[0].softmax(0)
    expected = p * (credit - (p * credit).sum())
    found = over_all_tokens(ALGORITHMS[name].component, old.exp(), {"old_logp": old, "credit": credit})
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_in_expectation_imitation_has_the_gradient_of_the_kl_to_the_demonstrations():
    """Over tokens of pi_beta: -grad KL(pi_beta | pi) = pi_beta - pi in the logits of a softmax."""
    beta = LOGITS[1].softmax(0)
    found = over_all_tokens(Sft(), beta, {})
    torch.testing.assert_close(found, beta - LOGITS[0].softmax(0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spread", [0.3, 30.0])
@pytest.mark.parametrize(("kind", "component"), ALL, ids=IDS)
def test_the_weight_in_plain_python_is_the_gradient_of_every_component(kind, component, spread):
    """In every setting; with ordinary gaps and with gaps so wide that ratios are held."""
    batch = random_batch([1, 2, 5, 9], 11, spread)
    found = run(component, batch).gradient[0]
    for row in range(4):
        tokens = ((batch.row == row) & (batch.weight != 0)).nonzero()[:, 0]
        if len(tokens) == 0:
            continue
        columns = {name: column[tokens].tolist() for name, column in batch.columns.items()}
        weights = gradient_weights(kind, Row(columns["logp"], columns), component)
        expected = -batch.weight[tokens] * torch.tensor(weights, dtype=torch.float64)
        torch.testing.assert_close(found[tokens], expected, rtol=1e-9, atol=1e-12)


def test_every_component_has_its_four_parts_in_words():
    assert set(UNIFIED.names()) == set(COMPONENTS.names())
    for kind in COMPONENTS.names():
        parts = describe(kind)
        assert all(getattr(parts, field.name) for field in fields(parts)), kind


def test_the_view_and_the_losses_hold_a_ratio_at_the_same_limit():
    assert LIMIT == LOG_LIMIT


def test_what_has_no_formula_is_refused():
    with pytest.raises(UserError, match="no such loss component in the unified view: mine; one of none, clip"):
        describe("mine")
    row = Row([-1.0], {"credit": [1.0], "ref_logp": [-1.0]})
    with pytest.raises(UserError, match="off_policy_reshape: no formula is known for the shape mine"):
        gradient_weights("off_policy", row, OffPolicy(reshape="mine"))
