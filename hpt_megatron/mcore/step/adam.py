"""Adam with the contract of the fused ones (Transformer Engine's, apex's), on torch's own arithmetic.

Why not torch's class: megatron-core's checkpoint code was written for the fused ones, which count steps once per
parameter group. With torch's class, whose `step` is a tensor per parameter, a fresh process ends with one `step`
tensor shared by all parameters: it is advanced once per parameter, and training goes on differently without an error.

The contract, as far as megatron-core uses it:
    1. `param_groups[i]["step"]` is an int, absent before the first step.
    2. `state[p]` holds `exp_avg` and `exp_avg_sq` and nothing else, so every entry is a shard that can be cut.
    3. Groups without parameters count too. On a data-parallel rank a group can be empty, and counts must agree.
    4. `adam_w_mode` says whether weight decay is decoupled.

The numbers are those of `torch.optim.AdamW` (`Adam` without `adam_w_mode`): the same function computes them. One
difference: a parameter that gets its first gradient late is corrected by the group's count, as in the fused ones.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.adam import adam


class Adam(torch.optim.Optimizer):
    """Adam or AdamW, counting steps per group."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.adam_w_mode = adam_w_mode

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step over all groups."""
        if closure is not None:
            raise ValueError("megatron-core passes no closure, and none is supported")
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            self._step_group(group)

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        states = [self._state(p) for p in params]
        if not params:
            return
        adam(
            params,
            [p.grad for p in params],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            # Torch's function advances a count per parameter, in place; these live for this call only.
            [torch.tensor(float(group["step"] - 1)) for _ in params],
            decoupled_weight_decay=self.adam_w_mode,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[p]
        if not state:
            state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state
