"""Losses over several rows at once, as weights of single tokens: what a preference between rows becomes.

A pairwise loss L depends on its rows through one number per row: the sum S of the policy's log-probs over the trained
tokens, or a score. The trainer adds weight times -log pi over tokens and knows no rows. So a pass without gradient
collects S, and here every trained token t of row i gets

    w_t = -dL / dS_i        then    sum_t w_t (-log pi_t)    has exactly the gradient of L where S was collected

(the weights of the `sft` component, negative on what is rejected). They are exact for the step that follows the pass,
and stale like an old log-prob for any further step without a new pass. A loss of scores puts its weight on the token
that the score is read at, the last trained one.

Invariants
    1. L is the mean over the pairs that count: both rows valid, with a trained token and with finite sums. Others get
       weight 0, move nothing and are counted. Without any pair every weight is 0.
    2. The order of rows and of pairs does not matter; a row may stand in several pairs.
    3. No log-probs down to -10000 a token make a not-a-number or an infinity: sums and losses run in float64, and
       what a loss holds back it says.

Example: one pair of two tokens each, before the first step of DPO (policy and reference agree, loss log 2):
    >>> rows = Rows.from_lists({"trained": [[True, True], [True, True]]}, valid=[True, True])
    >>> sums = RowSums(torch.tensor([-3.0, -2.0]), reference=torch.tensor([-3.0, -2.0]))
    >>> found = pairwise_weights(rows, Pairs(torch.tensor([0]), torch.tensor([1])), sums, PAIRWISE.get("dpo")())
    >>> found.weight.tolist(), round(found.metrics["pairs/loss"], 4)
    ([0.05000000074505806, 0.05000000074505806, -0.05000000074505806, -0.05000000074505806], 0.6931)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hpt_megatron.errors import HptError
from hpt_megatron.protocol.rows import Rows
from hpt_megatron.registry import Registry


@dataclass(frozen=True)
class Pairs:
    """Indices of rows: `chosen[i]` is preferred to `rejected[i]`, by `margin[i]` where that is known.

    A loss over single rows (`kto`) reads the same as two lists of any lengths.
    """

    chosen: Tensor
    rejected: Tensor
    margin: Tensor | None = None


@dataclass(frozen=True)
class RowSums:
    """[R] what a pass without gradient found: log-probs summed over trained tokens, or scores.

    `drift` is KTO's measure of how far the policy is from the reference on rows that belong to other prompts.
    """

    policy: Tensor
    reference: Tensor | None = None
    drift: float = 0.0


@dataclass(frozen=True)
class Compared:
    """What a loss sees, in float64: sums over the rows of the step, their lengths, and the pairs that count."""

    policy: Tensor
    reference: Tensor
    lengths: Tensor
    drift: float
    chosen: Tensor
    rejected: Tensor
    margin: Tensor

    @property
    def rewards(self) -> tuple[Tensor, Tensor]:
        """Log-ratios against the reference, of what is chosen and of what is rejected."""
        ratio = self.policy - self.reference
        return ratio[self.chosen], ratio[self.rejected]

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Mean log-probs per token, of both."""
        mean = self.policy / self.lengths
        return mean[self.chosen], mean[self.rejected]


class PairwiseLoss(Protocol):
    """A loss and, larger than 0 where the order is right, the margin; one of each per pair (`kto`: per row)."""

    @property
    def needs_reference(self) -> bool:
        """Whether it reads the sums of a reference."""
        ...

    @property
    def of_scores(self) -> bool:
        """Whether the sums are scores, which stand on the last trained token."""
        ...

    @property
    def paired(self) -> bool:
        """Whether it looks at pairs, and not at rows one by one."""
        ...

    def __call__(self, seen: Compared) -> tuple[Tensor, Tensor]:
        """Loss and margin."""
        ...


PAIRWISE: Registry[Callable[..., Any]] = Registry("pairwise loss", "hpt_megatron.pairwise")


@dataclass(frozen=True)
class PairwiseWeights:
    """[T] the weight of every token in the sum of -log pi, and what there is to log."""

    weight: Tensor
    metrics: dict[str, float]


def pairwise_weights(rows: Rows, pairs: Pairs, sums: RowSums, loss: PairwiseLoss) -> PairwiseWeights:
    """Reads the tokens `trained` and the field `valid`."""
    trained = rows.tokens["trained"]
    lengths = rows.row_sum(trained.to(torch.float64))
    reference = _reference(sums, loss)
    counts = rows.fields["valid"] & (lengths > 0) & torch.isfinite(sums.policy) & torch.isfinite(reference)
    kept = _that_count(pairs, counts, loss.paired)
    with torch.enable_grad():
        policy = torch.where(counts, sums.policy.detach().double(), 0.0).requires_grad_()
        seen = Compared(policy, reference.double(), lengths.clamp(min=1), sums.drift, *kept)
        each, margin = loss(seen)
        slope = torch.autograd.grad(each.sum() / max(len(each), 1), policy, allow_unused=True)[0]
    of_row = torch.zeros_like(policy) if slope is None else -slope
    if loss.of_scores:
        ends = rows.last(trained)
        trained = torch.zeros_like(trained).index_fill(0, ends[ends >= 0], True)
    weight = torch.where(trained, rows.per_token(of_row.detach().float()), 0.0)
    given = len(pairs.chosen) if loss.paired else len(pairs.chosen) + len(pairs.rejected)
    metrics = {"pairs/count": float(len(each)), "pairs/left_out": float(given - len(each))}
    if len(each):
        metrics |= {
            "pairs/loss": float(each.detach().mean()),
            "pairs/accuracy": float(((margin > 0).double() + 0.5 * (margin == 0).double()).mean()),
            "pairs/margin": float(margin.detach().mean()),
        }
    return PairwiseWeights(weight, metrics)


def _reference(sums: RowSums, loss: PairwiseLoss) -> Tensor:
    if not loss.needs_reference:
        return torch.zeros_like(sums.policy)
    if sums.reference is None:
        raise HptError(f"{type(loss).__name__} compares with a reference, and there are no sums of one")
    return sums.reference.detach()


def _that_count(pairs: Pairs, counts: Tensor, paired: bool) -> tuple[Tensor, Tensor, Tensor]:
    chosen, rejected = pairs.chosen, pairs.rejected
    margin = torch.zeros(len(chosen), dtype=torch.float64) if pairs.margin is None else pairs.margin.double()
    if not paired:
        return chosen[counts[chosen]], rejected[counts[rejected]], margin
    if len(chosen) != len(rejected):
        raise HptError(f"{len(chosen)} chosen and {len(rejected)} rejected rows make no pairs")
    both = counts[chosen] & counts[rejected]
    return chosen[both], rejected[both], margin[both]
