"""What each loss component has of a step: tokens, gradient, entropy; and how far the engine is from the trainer.

    token_share/NAME         of the tokens that any component has a weight for, those that this one has
    grad_share/NAME          of the squared gradient of the loss by what the head says of each token, this one's part
    entropy/NAME             mean entropy of the policy on the component's tokens; actor/entropy_loss: on all of them
    correction/abs_gap_text, correction/abs_gap_images
                             mean |log-prob here - log-prob at the engine| of sampled tokens, by what the row shows

Decision: the norm of each component's gradient by the weights would cost a backward pass for each. What the head says
of a token is its log-prob, and its entropy where there is a bonus; the gradient by these two stops before the model.

Invariants
    1. Loss and gradient of the step are what they were without this, bit for bit.
    2. Every number is a sum and a count, so that micro-batches, context- and data-parallel ranks add up.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from hpt_megatron.mcore.model.stage import Said
from hpt_megatron.mcore.packing.pack import Pack

Sums = dict[str, tuple[Tensor, Tensor]]
POLICY = "rl"


def shares(pack: Pack, said: Said, losses: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Sums:
    """Of one micro-batch; `losses` are still in the graph. A critic has one component and nothing to share."""
    if said.logp is None or not losses:
        return {}
    used = {name: weight != 0 for name, weight in weights.items()}
    every = torch.stack(list(used.values())).any(0)
    found: Sums = {f"token_share/{name}": (mask.sum(), every.sum()) for name, mask in used.items()}
    found |= gradient_shares(said, losses)
    if said.entropy is not None:
        entropy = said.entropy.detach()
        found |= {f"entropy/{name}": _tally(entropy, mask) for name, mask in used.items()}
        found["actor/entropy_loss"] = _tally(entropy, every)
    if POLICY in used and "rollout_logp" in pack.columns:
        here = pack.columns.get("old_logp", said.logp.detach())
        gap = (here - pack.columns["rollout_logp"]).abs()
        found["correction/abs_gap_text"] = _tally(gap, used[POLICY] & ~pack.pictured)
        found["correction/abs_gap_images"] = _tally(gap, used[POLICY] & pack.pictured)
    return found


def gradient_shares(said: Said, losses: Mapping[str, Tensor]) -> Sums:
    """See the module; nothing where the head's answers are outside a graph."""
    sources = [each for each in (said.logp, said.entropy) if each is not None and each.requires_grad]
    if not sources:
        return {}
    squares = {name: _square(loss, sources) for name, loss in losses.items()}
    whole = torch.stack(list(squares.values())).sum()
    return {f"grad_share/{name}": (square, whole) for name, square in squares.items()}


def _square(loss: Tensor, sources: list[Tensor]) -> Tensor:
    nothing = torch.zeros((), dtype=torch.float64, device=loss.device)
    if not loss.requires_grad:
        return nothing
    found = torch.autograd.grad(loss, sources, retain_graph=True, allow_unused=True)
    return torch.stack([nothing, *(each.double().square().sum() for each in found if each is not None)]).sum()


def _tally(number: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(mask, number.double(), 0.0).sum(), mask.sum()
