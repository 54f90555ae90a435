"""Estimators of KL(pi || ref) from the log-prob of a sampled token, and the KL as a loss: `kl`. Stream `kl`.

With d = ref_logp - logp at a token that pi sampled:

    k1        -d                 unbiased, may be negative
    k2        d^2 / 2            biased, never negative
    k3        e^d - 1 - d        unbiased, never negative
    abs       |d|
    mse       d^2 / 2            k2 under the name that the released code has for it
    low_var   clamp(k3, -10, 10), d within 20 of 0: the released k3; above 10 it is flat
    full      sum over the vocabulary of p (log p - log ref): exact, and needs both distributions

The same functions serve the penalty in the reward. As a loss their gradients are of another kind: that of k1 is 0 on
average over own samples, that of k2 is the gradient of the KL, that of k3 belongs to KL(ref || pi). So: k2 or full.

Invariant: d is held at LOG_LIMIT from above inside the exponential of k3 and beside it; so it is never negative, and a
token that ref finds e^20 times as likely has gradient 0.

Example:
    >>> import torch
    >>> KL_ESTIMATORS.get("k1")(torch.tensor(-1.0), torch.tensor(-1.5)).item()
    0.5
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hpt_megatron.algorithms.objective.part import COMPONENTS, Part, View
from hpt_megatron.algorithms.objective.ratio import LOG_LIMIT
from hpt_megatron.algorithms.objective.tally import tally
from hpt_megatron.errors import HptError
from hpt_megatron.registry import Registry

KL_ESTIMATORS: Registry[Callable[[Tensor, Tensor], Tensor]] = Registry("KL estimator", "hpt_megatron.kl")
FULL = "full"
LOW_VAR_BOUND = 10.0


@KL_ESTIMATORS.add("k1")
def k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """log pi - log ref; weight as a loss -1."""
    return logp - ref_logp


@KL_ESTIMATORS.add("k2")
def k2(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """(log pi - log ref)^2 / 2; weight as a loss d."""
    return 0.5 * (logp - ref_logp).square()


@KL_ESTIMATORS.add("k3")
def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """e^d - 1 - d; weight as a loss e^d - 1, and 0 where d > LOG_LIMIT."""
    d = (ref_logp - logp).clamp(max=LOG_LIMIT)
    return d.expm1() - d


@KL_ESTIMATORS.add("low_var")
def low_var(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """clamp(k3, -10, 10) with |d| <= 20; weight as a loss e^d - 1, and 0 where k3 > 10."""
    d = (ref_logp - logp).clamp(-LOG_LIMIT, LOG_LIMIT)
    return (d.expm1() - d).clamp(-LOW_VAR_BOUND, LOW_VAR_BOUND)


@KL_ESTIMATORS.add("abs")
def absolute(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """|log pi - log ref|; weight as a loss the sign of d."""
    return (logp - ref_logp).abs()


KL_ESTIMATORS.add("mse")(k2)


@COMPONENTS.add("kl")
@dataclass(frozen=True, kw_only=True)
class Kl:
    """The estimate of each token; weight as its estimator says.

    `full` reads the column `kl_full` instead of `ref_logp`. Its gradient runs through the whole distribution, so the
    trainer computes the column from its logits, inside the graph, and hands it over with its gradient attached; the
    component only weighs it. A column without a graph would be a constant, and is refused where gradients are on.
    """

    estimator: str = "k3"
    name = "kl"

    @property
    def reads(self) -> tuple[str, ...]:
        """The stored columns that it needs."""
        return ("kl_full",) if self.estimator == FULL else ("ref_logp",)

    def __call__(self, view: View) -> Part:
        """See the class."""
        if self.estimator == FULL:
            loss = view.stored["kl_full"]
            if torch.is_grad_enabled() and view.logp.requires_grad and not loss.requires_grad:
                raise HptError("the column kl_full has no gradient; compute it from the logits of this pass")
        else:
            loss = KL_ESTIMATORS.get(self.estimator)(view.logp, view.stored["ref_logp"])
        return Part(view.weighted(loss), {"actor/kl_loss": tally(view, loss)})
