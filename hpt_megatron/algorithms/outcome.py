"""What became of the rollouts of a step: which succeeded, and what that makes of each prompt.

Invariants
    1. Success is a comparison of named reward components with thresholds, never equality of floats. All conditions
       must hold.
    2. A rollout that a failure of ours made (`valid` is false) counts neither as a rollout nor as a success.
    3. Everything here is counted on sampled rollouts alone; a demonstration in the rows moves no count, nor does a
       greedy baseline.

Example:
    >>> rule = [Condition("accuracy", ">=", 1.0), Condition("format", ">", 0.0)]
    >>> successes({"accuracy": torch.tensor([1.0, 1.0]), "format": torch.tensor([1.0, 0.0])}, rule).tolist()
    [True, False]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpt_megatron.config.algorithm import AlgorithmConfig
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.conditions import OPERATORS, Condition
from hpt_megatron.protocol.rows import Rows


def success_rule(algorithm: AlgorithmConfig) -> list[Condition]:
    """The conditions that a run asks for."""
    return [Condition(success.component, success.op, success.value) for success in algorithm.success]


def successes(components: Mapping[str, Tensor], rule: Sequence[Condition]) -> Tensor:
    """[R] whether each row meets every condition; a component that is not a number meets none."""
    met = None
    for condition in rule:
        if condition.component not in components:
            known = ", ".join(components) or "none"
            where = "algorithm.success"
            raise UserError(f"no reward component {condition.component!r}", where=where, mend=f"known here: {known}")
        if condition.op not in OPERATORS:
            raise UserError(f"no such operator: {condition.op}", where="algorithm.success", mend="'>=' or '>'")
        one: Tensor = condition.met_by(components[condition.component])
        met = one if met is None else met & one
    if met is None:
        raise UserError("no condition says what a success is", where="algorithm.success", mend="name a component")
    return met


@dataclass(frozen=True)
class Counts:
    """Per prompt 0 ... P-1: valid rollouts and successes among them."""

    n: Tensor
    k: Tensor


def counted_rollouts(rows: Rows) -> Tensor:
    """[R] the rollouts that say how well the policy does: sampled by it, and none that a failure of ours made."""
    return rows.fields["valid"] & ~rows.fields["off"] & ~rows.flag("greedy")


def count(rows: Rows, success: Tensor, prompts: int) -> Counts:
    """Counts over the fields `prompt`, `off`, `valid` and `greedy`."""
    counted = counted_rollouts(rows)
    zeros = torch.zeros(prompts, dtype=torch.int64)
    prompt = rows.fields["prompt"]
    return Counts(
        zeros.index_add(0, prompt, counted.to(torch.int64)),
        zeros.index_add(0, prompt, (counted & success).to(torch.int64)),
    )


def batch_metrics(counts: Counts, rows: Rows, success: Tensor, format_failed: Tensor | None = None) -> dict[str, float]:
    """`batch/*` as users of the released code know them, without its demonstrations.

    `solve_none` and `solve_all` count prompts, `solved` and `failed` are shares of rollouts; `solve_none_format` counts
    prompts whose rollouts all fail on the format, where the reward reports that.
    """
    counted = counted_rollouts(rows)
    total = max(int(counted.sum()), 1)
    seen = counts.n > 0
    solved = int((counted & success).sum())
    metrics = {
        "batch/solve_none": float((seen & (counts.k == 0)).sum()),
        "batch/solve_all": float((seen & (counts.k == counts.n)).sum()),
        "batch/solved": solved / total,
        "batch/failed": (int(counted.sum()) - solved) / total,
    }
    if format_failed is not None:
        broken = count(rows, format_failed, len(counts.n)).k
        metrics["batch/solve_none_format"] = float((seen & (broken == counts.n)).sum())
    return metrics


def mean_scores(rows: Rows, prompts: int) -> list[float | None]:
    """Of each prompt the mean score of its valid rollouts; None where it has none that is a number."""
    score = rows.fields["score"].double()
    counted = counted_rollouts(rows) & torch.isfinite(score)
    zeros, prompt = torch.zeros(prompts, dtype=torch.float64), rows.fields["prompt"]
    total = zeros.index_add(0, prompt, torch.where(counted, score, 0.0)).tolist()
    number = zeros.index_add(0, prompt, counted.double()).tolist()
    return [each / of if of else None for each, of in zip(total, number, strict=True)]
