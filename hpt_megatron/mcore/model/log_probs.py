"""Log-probabilities and entropy from hidden states: the language-model head and the softmax as one autograd function.

Decision: the vocabulary stays cut over the tensor-parallel group and the tokens are taken in chunks, both ways. A whole
pack's logits never exist; backward computes each chunk's logits anew. Per token and rank, three or four numbers (peak,
sum of exponentials, the label's logit, weighted sum) are gathered once per call; backward needs no collective.

What a rank holds: `hidden` [N, H], the same on all ranks of the group; `weight` [V / ranks, H], its rows of the padded
vocabulary. Logits are computed in the model's precision, as the engine's are, and everything after them in float32
(float64 for a float64 model).

Invariants:
    1. The distribution is the one that was sampled from: rows beyond `vocab_size` and `forbidden` ids have no part in
       it, and logits are divided by the temperature. They get a gradient of exactly zero.
    2. A label that cannot be sampled has log-probability -inf and hands no gradient back, whatever comes in for it.
       The entropy at its position does not depend on it. Nothing of it reaches other tokens.
    3. Results and the gradient of `weight` are whole. THE GRADIENT OF `hidden` IS THIS RANK'S PART OF A SUM over the
       group, because a rank knows its own rows only. The caller's gather sums it up on the way back:
       `gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True)`, or without sequence
       parallelism `copy_to_tensor_model_parallel_region`.
    4. Every rank of the group computes the same bits, so decisions that follow from them agree.

Example:
    >>> hidden, weight = torch.ones(1, 2), torch.zeros(4, 2)
    >>> logp, entropy = log_probs(hidden, weight, torch.tensor([0]), Sampling(vocab_size=3, forbidden=(2,)))
    >>> logp.exp().item(), entropy.exp().item()
    (0.5, 2.0)
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpt_megatron.errors import UserError
from hpt_megatron.layout.sizes import LOGITS_CHUNK


@dataclass(frozen=True)
class Sampling:
    """What tokens were drawn from, and how the work is cut.

    vocab_size   rows of the vocabulary that exist; those beyond it are padding
    temperature  above zero. A greedy engine reports log-probabilities at 1, so that is what belongs here for one
    forbidden    ids that were masked out before the softmax
    chunk        tokens whose logits exist at a time
    group        tensor-parallel group over which `weight` is cut; None for one process alone
    """

    vocab_size: int
    temperature: float = 1.0
    forbidden: tuple[int, ...] = ()
    chunk: int = LOGITS_CHUNK
    group: dist.ProcessGroup | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"{self.temperature} is no temperature", where="temperature", mend="use 1 for greedy")
        if self.chunk < 1:
            raise UserError(f"chunks of {self.chunk} tokens", where="chunk", mend="set it to 1 or more")
        beyond = [i for i in self.forbidden if not 0 <= i < self.vocab_size]
        if beyond:
            raise UserError(f"ids {beyond[:5]} are not among {self.vocab_size} tokens", where="forbidden")
        if len(set(self.forbidden)) == self.vocab_size:
            raise UserError("every token is forbidden", where="forbidden", mend="leave one to sample")


class Shard:
    """This rank's rows of the vocabulary."""

    def __init__(self, hidden: Tensor, weight: Tensor, how: Sampling) -> None:
        rank, ranks = (how.group.rank(), how.group.size()) if how.group else (0, 1)
        if len(weight) * ranks < how.vocab_size:
            raise ValueError(f"{ranks} x {len(weight)} rows of weight cannot hold {how.vocab_size} tokens")
        self.hidden, self.weight, self.how = hidden, weight, how
        self.first = rank * len(weight)
        self.real = min(max(how.vocab_size - self.first, 0), len(weight))
        forbidden = torch.tensor(how.forbidden, dtype=torch.int64, device=weight.device) - self.first
        self.forbidden = forbidden[(forbidden >= 0) & (forbidden < self.real)]

    def chunks(self, *per_token: Tensor | None) -> list[tuple[slice, list[Any]]]:
        """Where each chunk stands, and its part of tensors that have an entry per token."""
        tokens, step = len(self.hidden), self.how.chunk
        places = [slice(first, min(first + step, tokens)) for first in range(0, tokens, step)]
        return [(place, [None if x is None else x[place] for x in per_token]) for place in places]

    def fill(self, x: Tensor, value: float) -> Tensor:
        """Overwrites, in place, the columns of what cannot be sampled."""
        x[:, self.real :] = value
        return x.index_fill_(1, self.forbidden, value) if len(self.forbidden) else x

    def logits(self, place: slice) -> Tensor:
        """Logits of some tokens as they were sampled from; the lowest finite number stands for -inf.

        With -inf the entropy's 0 * -inf would be not-a-number; the exponential of either is exactly zero.
        """
        logits = (self.hidden[place] @ self.weight.t()).to(wide(self.weight.dtype))
        if self.how.temperature != 1:
            logits.div_(self.how.temperature)
        return self.fill(logits, torch.finfo(logits.dtype).min)

    def columns(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """[n, 1] column of each label, and whether it stands on this rank (if not, the column means nothing)."""
        column = labels - self.first
        here = (column >= 0) & (column < self.real)
        return column.clamp(0, len(self.weight) - 1).unsqueeze(1), here

    def statistics(self, place: slice, labels: Tensor, with_entropy: bool) -> Tensor:
        """[3 or 4, n] peak, sum of exp(logit - peak), the label's logit, sum of exp(logit - peak) * (logit - peak)."""
        logits = self.logits(place)
        peak = logits.amax(1)
        column, here = self.columns(labels)
        label = torch.where(here, logits.gather(1, column).squeeze(1), 0.0)
        logits.sub_(peak.unsqueeze(1))
        if not with_entropy:
            return torch.stack((peak, logits.exp_().sum(1), label))
        exponentials = logits.exp()
        return torch.stack((peak, exponentials.sum(1), label, exponentials.mul_(logits).sum(1)))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of everything that follows the logits."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def possible(labels: Tensor, how: Sampling) -> Tensor:
    """Which labels can be sampled at all."""
    inside = (labels >= 0) & (labels < how.vocab_size)
    if not how.forbidden:
        return inside
    return inside & ~torch.isin(labels, torch.tensor(how.forbidden, dtype=labels.dtype, device=labels.device))


def gather_ranks(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """[ranks, *x.shape]; without a collective when there is nothing to gather, which all ranks know alike."""
    if group is None or group.size() == 1:
        return x.unsqueeze(0)
    if not x.numel():
        return x.new_empty((group.size(), *x.shape))
    gathered = x.new_empty((group.size() * x.shape[0], *x.shape[1:]))
    dist.all_gather_single(gathered, x.contiguous(), group=group)
    return gathered.view(-1, *x.shape)


class LogProbs(torch.autograd.Function):
    """See the module; called through `log_probs`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, how: Sampling, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        shard = Shard(hidden, weight, how)
        statistics = hidden.new_empty((4 if with_entropy else 3, len(hidden)), dtype=wide(weight.dtype))
        for place, (of_labels,) in shard.chunks(labels):
            statistics[:, place] = shard.statistics(place, of_labels, with_entropy)
        peaks, sums, of_label, *weighted = gather_ranks(statistics, how.group).unbind(1)

        peak = peaks.amax(0)
        shift = peaks - peak
        scale = shift.exp()
        total = (scale * sums).sum(0)
        log_total = total.log()
        # From the peak on, not from zero: large logits would cost their digits here.
        logp = torch.where(possible(labels, how), of_label.sum(0) - peak - log_total, float("-inf"))
        entropy = None
        if with_entropy:
            # scale * shift first: a rank of padding alone has 0 * lowest, and lowest * rows would be infinite.
            entropy = log_total - (scale * weighted[0] + scale * shift * sums).sum(0) / total
        ctx.save_for_backward(hidden, weight, labels, peak, log_total, entropy)
        ctx.how = how
        ctx.set_materialize_grads(False)
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, peak, log_total, entropy = ctx.saved_tensors
        of_logp, of_entropy = gradients
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        if of_logp is None and of_entropy is None:
            return None, None, None, None, None
        how = ctx.how
        if of_logp is not None:
            of_logp = torch.where(possible(labels, how), of_logp, 0.0) / how.temperature
        if of_entropy is not None:
            of_entropy = of_entropy / how.temperature
        shard = Shard(hidden, weight, how)
        d_hidden = torch.empty_like(hidden) if to_hidden else None
        # Sums over chunks are kept in float32 and rounded once: a bf16 sum would lose small chunks to large ones.
        d_weight = torch.zeros_like(weight, dtype=wide(weight.dtype)) if to_weight else None
        for place, parts in shard.chunks(labels, peak, log_total, entropy, of_logp, of_entropy):
            d_logits = gradient_of_logits(shard, place, *parts).to(weight.dtype)
            if d_hidden is not None:
                d_hidden[place] = d_logits @ weight
            if d_weight is not None and d_weight.dtype == weight.dtype:
                d_weight.addmm_(d_logits.t(), hidden[place])
            elif d_weight is not None:
                d_weight.add_(d_logits.t() @ hidden[place])
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None, None, None


def gradient_of_logits(
    shard: Shard, place: slice, labels: Tensor, peak: Tensor, log_total: Tensor, *rest: Tensor | None
) -> Tensor:
    """[n, rows] d loss / d logit_j = a * ([j is the label] - p_j) - b * p_j * (log p_j + entropy).

    a and b are what comes in for the log-probability and the entropy; either may be missing.
    """
    entropy, of_logp, of_entropy = rest
    log_p = shard.logits(place).sub_(peak.unsqueeze(1)).sub_(log_total.unsqueeze(1))
    if of_entropy is None or entropy is None:
        assert of_logp is not None
        gradient = log_p.exp_().mul_(-of_logp.unsqueeze(1))
    else:
        gradient = log_p.exp()
        log_p.add_(entropy.unsqueeze(1)).mul_(-of_entropy.unsqueeze(1))
        gradient.mul_(log_p if of_logp is None else log_p.sub_(of_logp.unsqueeze(1)))
    if of_logp is not None:
        column, here = shard.columns(labels)
        gradient.scatter_add_(1, column, torch.where(here, of_logp, 0.0).unsqueeze(1))
    # Last, because the lowest number times a large gradient is infinite, and 0 * infinity not a number.
    return shard.fill(gradient, 0.0)


def log_probs(
    hidden: Tensor, weight: Tensor, labels: Tensor, how: Sampling, with_entropy: bool = True
) -> tuple[Tensor, Tensor | None]:
    """[N] log-probability of each label and [N] entropy of each position, float32; no entropy when it is not asked for.

    `hidden` [N, H] and `labels` [N] int64 are the same on every rank of the group, and so is N; zero is fine.
    """
    if hidden.dim() != 2 or labels.shape != hidden.shape[:1]:
        raise ValueError(f"hidden {list(hidden.shape)} and labels {list(labels.shape)}: expected [N, H] and [N]")
    return LogProbs.apply(hidden, weight, labels, how, with_entropy)  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def full_logits(hidden: Tensor, weight: Tensor, how: Sampling) -> Tensor:
    """[N, vocab_size] logits as they were sampled from, whole on every rank: to compare small inputs, not to train."""
    mine = Shard(hidden, weight, how).logits(slice(None))
    whole = gather_ranks(mine, how.group).transpose(0, 1).flatten(1)[:, : how.vocab_size].clone()
    whole[:, list(how.forbidden)] = float("-inf")
    return whole
