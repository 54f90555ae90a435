"""Every kind of component in the settings that change its path, and batches of random numbers for them.

A batch holds every column that a component may read. What may carry a gradient (`LEAVES`) is stacked in one tensor,
so that gradients compare in one line.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hpt_megatron.algorithms.objective.cispo import Cispo
from hpt_megatron.algorithms.objective.correction import Correction
from hpt_megatron.algorithms.objective.entropy import Entropy
from hpt_megatron.algorithms.objective.gspo import Gspo
from hpt_megatron.algorithms.objective.kl import KL_ESTIMATORS, Kl
from hpt_megatron.algorithms.objective.off_policy import OffPolicy
from hpt_megatron.algorithms.objective.part import Component, Part, View
from hpt_megatron.algorithms.objective.policy import Clip, DualClip, Unclipped
from hpt_megatron.algorithms.objective.reshape import RESHAPES
from hpt_megatron.algorithms.objective.score import Score
from hpt_megatron.algorithms.objective.sft import Sft
from hpt_megatron.algorithms.objective.srft import FORMS, SrftRl, SrftSft
from hpt_megatron.algorithms.objective.value import Value

TIS, MIS = Correction(kind="tis", high=1.1), Correction(kind="mis", low=0.9, high=1.2)
CORRECTIONS = [replace(one, level=level) for one in (TIS, MIS) for level in ("token", "sequence", "geometric")]
CASES: dict[str, list[Component]] = {
    "none": [Unclipped(), *(Unclipped(correction=one) for one in CORRECTIONS)],
    "clip": [Clip(), Clip(clip_low=0.1, clip_high=0.4), Clip(correction=TIS)],
    "dual_clip": [DualClip(), DualClip(clip_dual=1.2, correction=MIS)],
    "gspo": [Gspo(), Gspo(clip_low=0.3, clip_high=0.3), Gspo(correction=replace(MIS, level="sequence"))],
    "cispo": [Cispo(), Cispo(clip_low=0.1, clip_high=0.2), Cispo(correction=TIS)],
    "sft": [Sft()],
    "off_policy": [
        *(OffPolicy(reshape=name) for name in RESHAPES.names()),
        *(OffPolicy(reshape=name, impl="seq") for name in ("p_logp", "p_div_p_0.1", "classic_reject_token")),
        *(OffPolicy(target_probs=True, impl=impl) for impl in ("token", "seq")),
        OffPolicy(max_clip=0.5, min_clip=0.2),
    ],
    "srft_sft": [SrftSft()],
    "srft_rl": [
        *(SrftRl(form=form) for form in FORMS),
        *(SrftRl(form=form, clip_low=0.1, clip_high=0.1, negative_floor=-1.5) for form in FORMS),
        SrftRl(correction=TIS),
    ],
    "entropy": [Entropy()],
    "kl": [*(Kl(estimator=name) for name in KL_ESTIMATORS.names()), Kl(estimator="full")],
    "value": [Value(), Value(clip=None)],
    "score": [Score()],
}
ALL = [(kind, component) for kind, components in CASES.items() for component in components]
IDS = [f"{kind}-{number}" for kind, components in CASES.items() for number in range(len(components))]
LEAVES = ("logp", "entropy", "value", "kl_full")


@dataclass(frozen=True)
class Batch:
    """Packed tokens: the row of each, its weight, and every column."""

    row: Tensor
    weight: Tensor
    columns: dict[str, Tensor]

    def take(self, tokens: Tensor) -> "Batch":
        """Some of the tokens, in the order of an index."""
        columns = {name: column[tokens] for name, column in self.columns.items()}
        return Batch(self.row[tokens], self.weight[tokens], columns)

    def to(self, dtype: torch.dtype) -> "Batch":
        """The same numbers in another precision."""
        columns = {name: column.to(dtype) for name, column in self.columns.items()}
        return Batch(self.row, self.weight.to(dtype), columns)


@dataclass(frozen=True)
class Outcome:
    """Loss, gradient [4, T] in the order of LEAVES, and metrics."""

    loss: Tensor
    gradient: Tensor
    metrics: dict[str, tuple[float, float]]


def random_batch(lengths: list[int], seed: int, spread: float = 0.3) -> Batch:
    """Ordinary numbers in float64, about one in six tokens with weight 0, about one in six weights negative."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))
    size = len(row)

    def normal() -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    def uniform() -> Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    logp = -3 * uniform() - 0.01
    old = (logp + spread * normal()).clamp(max=0)
    value = normal()
    columns = {
        "logp": logp,
        "old_logp": old,
        "rollout_logp": (old + spread * normal()).clamp(max=0),
        "target_logp": -3 * uniform(),
        "ref_logp": (logp + spread * normal()).clamp(max=0),
        "credit": normal(),
        "accept": (uniform() < 0.5).double(),
        "success": (torch.arange(len(lengths) or 1) % 2)[row].double() if size else uniform(),
        "entropy": 2 * uniform(),
        "kl_full": uniform(),
        "value": value,
        "old_value": value + spread * normal(),
        "returns": normal(),
    }
    weight = torch.where(uniform() < 1 / 6, 0.0, uniform() + 0.1) * torch.where(uniform() < 1 / 6, -1.0, 1.0)
    return Batch(row, weight, columns)


def run(component: Component, batch: Batch, sum_by_row=None) -> Outcome:
    """One pass forward and backward; `sum_by_row` for rows that do not lie in this batch as a whole."""
    leaves = {name: batch.columns[name].clone().requires_grad_() for name in LEAVES}
    columns = {**batch.columns, **leaves}
    view = View.of_rows(columns.pop("logp"), batch.weight, batch.row, **columns)
    if sum_by_row is not None:
        view = View(view.logp, view.weight, view.entropy, view.stored, sum_by_row)
    part: Part = component(view)
    gradients = torch.autograd.grad(part.loss, list(leaves.values()), allow_unused=True)
    gradient = torch.stack([torch.zeros_like(batch.weight) if one is None else one for one in gradients])
    metrics = {name: (total.item(), count.item()) for name, (total, count) in part.metrics.items()}
    return Outcome(part.loss.detach(), gradient, metrics)
