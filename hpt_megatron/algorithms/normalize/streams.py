"""The weights before any denominator: who is trained by which component, and how strongly.

    rl        mix_on                    on trained tokens of rollouts
    off       mix_off * off_loss_coef   on trained tokens of demonstrations
    sft       mix_sft * sft_loss_coef   on the same
    entropy   entropy_coeff, or what `entropy_control.py` has made of it
                                        on trained tokens (of rollouts alone with `entropy_on_demo` false)
    kl        kl_loss_coef              on trained tokens of rollouts
    value     value_coef                on trained tokens of rollouts

A row whose three mixes are 0 is compared with and trained by nothing (remax's greedy rollout).
A token comes from a demonstration when `off` is set: a row that goes on from part of a demonstration has both kinds.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hpt_megatron.config.algorithm import AlgorithmConfig, trains_critic
from hpt_megatron.protocol.rows import Rows

STREAMS = ("rl", "off", "sft", "entropy", "kl", "value")


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """What scales each component, and what `global` divides it by."""

    sft: float = 1.0
    off: float = 1.0
    entropy: float = 0.0
    kl: float = 0.0
    value: float = 0.0
    entropy_on_demo: bool = True
    loss_agg: Literal["token", "sequence", "constant"] = "token"
    length: int = 1  # the constant of `constant` and of `official`: the longest response


def coefficients(algorithm: AlgorithmConfig, longest_response: int, entropy: float | None = None) -> Coefficients:
    """The coefficients that a run asks for; `entropy` takes the place of its own."""
    return Coefficients(
        sft=algorithm.sft_loss_coef,
        off=algorithm.off_loss_coef,
        entropy=algorithm.entropy_coeff if entropy is None else entropy,
        kl=algorithm.kl_loss_coef if algorithm.use_kl_loss else 0.0,
        value=algorithm.value_coef if trains_critic(algorithm) else 0.0,
        entropy_on_demo=algorithm.entropy_on_demo,
        loss_agg=algorithm.loss_agg,
        length=longest_response,
    )


def streams(rows: Rows, coefficients: Coefficients) -> dict[str, Tensor]:
    """[T] the weight of every token in every component, 0 where it is not trained by it."""
    trained, off = rows.tokens["trained"], rows.tokens["off"]
    mixes = torch.stack([rows.fields[f"mix_{kind}"] for kind in ("on", "off", "sft")])
    apart = (mixes == 0).all(0)
    if bool(apart.any()):
        trained = trained & ~rows.per_token(apart)
    own, shown = trained & ~off, trained & off

    def on(mask: Tensor, of_row: Tensor | float) -> Tensor:
        weight = rows.per_token(of_row) if isinstance(of_row, Tensor) else torch.tensor(of_row)
        return torch.where(mask, weight, 0.0).to(torch.float32)

    return {
        "rl": on(own, rows.fields["mix_on"]),
        "off": on(shown, rows.fields["mix_off"] * coefficients.off),
        "sft": on(shown, rows.fields["mix_sft"] * coefficients.sft),
        "entropy": on(trained if coefficients.entropy_on_demo else own, coefficients.entropy),
        "kl": on(own, coefficients.kl),
        "value": on(own, coefficients.value),
    }
