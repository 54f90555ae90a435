"""An algorithm made visible: what each number of successes leads to, and what every token's gradient is weighed with.

Nothing is written down here: decisions come from the strategy, credit from the estimator, gradient weights from the
unified view, each built from the same configuration that a run would use.
"""

import inspect
from dataclasses import dataclass
from math import log, nan
from typing import Any

import torch

from hpt_megatron.algorithms.build import build_components, build_models, build_preference, credit
from hpt_megatron.algorithms.credit.estimator import Credit
from hpt_megatron.algorithms.objective.pairwise import Pairs, PairwiseLoss, RowSums, pairwise_weights
from hpt_megatron.algorithms.objective.part import COMPONENTS
from hpt_megatron.algorithms.routing.build import build_strategy, route_step
from hpt_megatron.algorithms.routing.decision import Decision, Outcome
from hpt_megatron.algorithms.unified import UNIFIED, FourParts, Row, describe, gradient_weights
from hpt_megatron.config.algorithm import AlgorithmConfig
from hpt_megatron.protocol.rows import Rows

APART = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)  # log-probs, or scores, of the preferred answer above the other
EVEN = -3.0  # where both are the same
PROBABILITIES = (0.1, 0.5)  # of a demonstration's token under the policy, for the worked example


@dataclass(frozen=True)
class Case:
    """One number of successes: the decision, and the gradient weight of a token by where it comes from."""

    k: int
    decision: Decision
    kept: int
    success: float | None
    failure: float | None
    demonstration: tuple[float | None, ...]


@dataclass(frozen=True)
class Explanation:
    """Everything that `hpt explain` shows."""

    n: int
    cases: list[Case]
    components: list[tuple[str, str, FourParts]]  # stream, kind, parts
    models: list[str]


def explain(algorithm: AlgorithmConfig, n: int) -> Explanation:
    """The worked table for n rollouts of a prompt with a target that is right, and the parts of every component."""
    rollouts = n - algorithm.n_prefix if algorithm.n_prefix > 0 else n
    components = build_components(algorithm)
    cases = [_case(algorithm, components, rollouts, k) for k in range(rollouts + 1)]
    parts = [(part.name, kind_of(part), parts_of(kind_of(part))) for part in components]
    return Explanation(rollouts, cases, parts, build_models(algorithm))


@dataclass(frozen=True)
class Gap:
    """A pair of answers of one token each, and what its loss asks of both."""

    apart: float
    loss: float
    chosen: float
    rejected: float


@dataclass(frozen=True)
class ExplainedPairs:
    """What `hpt explain` shows of a loss over pairs: its formula, and weights by how far the answers are apart."""

    loss: str
    formula: str
    gaps: list[Gap]
    models: list[str]


def explain_pairs(algorithm: AlgorithmConfig) -> ExplainedPairs:
    """The worked table of a preference loss; a reference, where there is one, has both answers alike."""
    name, loss = algorithm.preference.loss or "", build_preference(algorithm)
    gaps = [_gap(loss, apart) for apart in APART]
    return ExplainedPairs(name, inspect.getdoc(type(loss)) or "", gaps, build_models(algorithm))


def _gap(loss: PairwiseLoss, apart: float) -> Gap:
    rows = Rows.from_lists({"trained": [[True], [True]]}, valid=[True, True])
    sums = torch.tensor([EVEN + apart / 2, EVEN - apart / 2], dtype=torch.float64)
    alike = torch.full((2,), EVEN, dtype=torch.float64)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]))
    found = pairwise_weights(rows, pairs, RowSums(sums, alike), loss)
    chosen, rejected = found.weight.tolist()
    return Gap(apart, found.metrics["pairs/loss"], chosen, rejected)


def parts_of(kind: str) -> FourParts:
    """The four parts of a component; another package's may not give them."""
    return describe(kind) if kind in UNIFIED.names() else FourParts(*["not given"] * 5)


def kind_of(component: Any) -> str:
    """The name under which a component is registered."""
    return next(name for name in COMPONENTS.names() if COMPONENTS.get(name) is type(component))


def _case(algorithm: AlgorithmConfig, components: list[Any], n: int, k: int) -> Case:
    outcome = Outcome(n, k, prompt="example")
    decision = route_step(algorithm, build_strategy(algorithm), [outcome], step=0).decisions[0]
    kept = 0 if decision.mix.on == 0 else n - decision.drop
    earned = _credit(algorithm, n if kept else 0, k, decision.demo)
    own = [part for part in components if part.name == "rl"]
    shown = [part for part in components if part.name in ("off", "sft")]

    def of_rollout(index: int) -> float:
        columns = {"credit": float(earned.advantage[index]), "old_logp": log(0.5), "rollout_logp": log(0.5)}
        return decision.mix.on * _weights(own, log(0.5), {**columns, "success": float(index < k), "entropy": 1.0})

    def of_demonstration(probability: float) -> float:
        weights = {"off": decision.mix.off * algorithm.off_loss_coef, "sft": decision.mix.sft * algorithm.sft_loss_coef}
        columns = {"credit": float(earned.advantage[-1]), "accept": 1.0, "target_logp": log(0.9), "entropy": 1.0}
        return sum(weights[part.name] * _weights([part], log(probability), columns) for part in shown)

    return Case(
        k,
        decision,
        kept,
        of_rollout(0) if kept and k else None,
        of_rollout(kept - 1) if kept and k < n else None,
        tuple(of_demonstration(p) if decision.demo else None for p in PROBABILITIES),
    )


def _weights(components: list[Any], logp: float, columns: dict[str, float]) -> float:
    row = Row([logp], {name: [column] for name, column in columns.items()})
    known = [part for part in components if kind_of(part) in UNIFIED.names()]
    return sum(gradient_weights(kind_of(part), row, part)[0] for part in known) if known else nan


def _credit(algorithm: AlgorithmConfig, rollouts: int, k: int, demo: bool) -> Credit:
    """Credit of a group of one-token rows: successes first, then failures, then the demonstration, which is right."""
    greedy = int(algorithm.adv_estimator == "remax")  # one more rollout, which it compares with; a failure here
    right = min(k, rollouts)
    score = torch.tensor([1.0] * right + [0.0] * (rollouts - right) + [1.0] * demo + [0.0] * greedy)
    off = torch.tensor([False] * rollouts + [True] * demo + [False] * greedy)
    rows = Rows(
        torch.ones(len(score), dtype=torch.int64),
        {"trained": torch.ones_like(off), "off": off, "reward": score, "value": torch.zeros_like(score)},
        {
            "prompt": torch.zeros(len(score), dtype=torch.int64),
            "off": off,
            "valid": torch.ones_like(off),
            "greedy": torch.arange(len(score)) >= len(score) - greedy,
        },
    )
    earned = credit(rows, algorithm)
    count = rollouts + demo
    return Credit(earned.advantage[:count], earned.returns[:count])
