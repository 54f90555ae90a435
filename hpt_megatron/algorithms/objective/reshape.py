"""Shapes f of a likelihood p that off-policy RL puts in place of the ratio (`off_policy_reshape`).

A shape sees log p and answers f. The slope d f / d log p is what the token's log-prob gradient is multiplied by,
besides the credit: with f = p an unlikely token hardly learns (slope p); p / (p + c) lifts it (c p / (p + c)^2).

Another package adds a shape through the entry point group `hpt_megatron.reshapes`.

Example:
    >>> import torch
    >>> RESHAPES.get("p_div_p_0.1")(torch.tensor(0.1).log(), 0.1, 0.5).item()
    0.5
"""

from collections.abc import Callable

from torch import Tensor

from hpt_megatron.registry import Registry

Shape = Callable[[Tensor, float, float], Tensor]  # log p, reshape weight, reshape exponent
RESHAPES: Registry[Shape] = Registry("off_policy_reshape", "hpt_megatron.reshapes")


@RESHAPES.add("no_reshape")
def unshaped(log_p: Tensor, weight: float, exponent: float) -> Tensor:
    """f = p; slope p."""
    return log_p.exp()


@RESHAPES.add("logp")
def logarithm(log_p: Tensor, weight: float, exponent: float) -> Tensor:
    """f = weight log p; slope weight. Imitation scaled by the credit."""
    return weight * log_p


@RESHAPES.add("p_logp")
def sum_with_logarithm(log_p: Tensor, weight: float, exponent: float) -> Tensor:
    """f = p + weight log p; slope p + weight."""
    return log_p.exp() + weight * log_p


@RESHAPES.add("square_root")
def square_root(log_p: Tensor, weight: float, exponent: float) -> Tensor:
    """f = sqrt(p); slope sqrt(p) / 2."""
    return (0.5 * log_p).exp()


@RESHAPES.add("pow")
def power(log_p: Tensor, weight: float, exponent: float) -> Tensor:
    """f = p^exponent; slope exponent p^exponent."""
    return (exponent * log_p).exp()


@RESHAPES.add("classic_reject_token")
def accepted(log_p: Tensor, weight: float, exponent: float) -> Tensor:
    """f = p sg(1 / p) = 1; slope 1. The component multiplies it by the column `accept`, which keeps a token or not."""
    return (log_p - log_p.detach()).exp()


def saturating(constant: float) -> Shape:
    """f = p / (p + c); slope c p / (p + c)^2, largest at p = c. LUFFY has c = 0.1."""

    def shape(log_p: Tensor, weight: float, exponent: float) -> Tensor:
        p = log_p.exp()
        return p / (p + constant)

    return shape


for name in ("p_div_p_0.1", "p_div_p_0.3", "p_div_p_0.5"):
    RESHAPES.add(name)(saturating(float(name.removeprefix("p_div_p_"))))
