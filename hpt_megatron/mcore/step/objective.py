"""The loss of a micro-batch: the components over what the head says, as one weighted sum.

The trainer does not know the algorithm. A component is anything with `name`, `reads` and a call that takes a view; its
weights come with the rows in the column `weight_<name>`, already normalised over the whole optimizer step.

Invariants
    1. Sums over a row are sums over the context-parallel ranks that share it, in both passes.
    2. A component without a weight anywhere is an exact 0 and still takes part in every collective.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hpt_megatron.algorithms.objective.part import OPTIONAL, Component, View
from hpt_megatron.mcore.model.stage import Said, Want
from hpt_megatron.mcore.packing.pack import Pack
from hpt_megatron.mcore.step.shares import Sums, shares

WEIGHT = "weight_"


class SumOverRanks(torch.autograd.Function):
    """The sum over a group, on every rank; each rank's loss depends on it, so the gradient is summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


def weighted_tokens(tokens: Mapping[str, Tensor]) -> Tensor:
    """Which tokens of rows any component has a weight for."""
    masks = [column != 0 for name, column in tokens.items() if name.startswith(WEIGHT)]
    return torch.stack(masks).any(0) if masks else torch.zeros_like(tokens["ids"], dtype=torch.bool)


def scored_tokens(tokens: Mapping[str, Tensor], forbidden: Sequence[int]) -> Tensor:
    """Which tokens have a log-prob that something may read: trained ones, and none that is never sampled."""
    ids = tokens["ids"]
    held_back = torch.isin(ids, torch.tensor(list(forbidden), dtype=torch.int64))
    return tokens.get("trained", torch.ones_like(ids, dtype=torch.bool)) & ~held_back


def total_loss(
    pack: Pack, said: Said, components: Sequence[Component], group: dist.ProcessGroup
) -> tuple[Tensor, dict[str, Tensor], Sums]:
    """The sum of all components, each apart, and metrics as (sum, count)."""

    def sum_by_row(of_token: Tensor) -> Tensor:
        sums = of_token.new_zeros(pack.num_rows).index_add(0, pack.row, of_token)
        return (SumOverRanks.apply(sums, group) if group.size() > 1 else sums)[pack.row]

    numbers = {**pack.columns, **({} if said.value is None else {"value": own_number(said.value, pack)})}
    main = said.logp if said.logp is not None else numbers.get("value")
    assert main is not None
    losses, metrics, weights = {}, {}, {}
    for component in components:
        given = pack.columns.get(f"{WEIGHT}{component.name}")
        weight = weights[component.name] = torch.zeros_like(main) if given is None else given.float()
        wanted = [name for name in (*component.reads, *OPTIONAL) if name in numbers]
        stored = {name: numbers[name].float() for name in wanted}
        part = component(View(main, weight, said.entropy, stored, sum_by_row))
        losses[component.name] = losses.get(component.name, 0.0) + part.loss
        metrics |= part.metrics
    metrics |= shares(pack, said, losses, weights)
    total = torch.stack(list(losses.values())).sum() if losses else main[:0].sum()
    return total, {name: loss.detach() for name, loss in losses.items()}, metrics


def own_number(value: Tensor, pack: Pack) -> Tensor:
    """[n] of a head with several numbers, the one that the row is about."""
    return value if value.dim() == 1 else value.gather(1, pack.columns["head"][:, None])[:, 0]


def reads_own(components: Sequence[Component]) -> bool:
    """Whether the loss is of what was read up to a token, that one included, and not of what comes next."""
    return any(getattr(component, "reads_own", False) for component in components)


def wanted_of(components: Sequence[Component]) -> Want:
    """What the head has to compute."""
    return "entropy" if any("entropy" in component.reads for component in components) else "logp"
