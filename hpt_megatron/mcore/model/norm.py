"""RMSNorm with the contract of Transformer Engine's, in torch.

Megatron-core's own wrapper of torch's norm refuses sequence parallelism. All it takes is the mark on the weight:
`finalize_model_grads` sums the gradients of marked weights over the tensor-parallel group, because each rank has seen
only its part of the sequence.
"""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional

from hpt_megatron.errors import UserError


class RMSNorm(torch.nn.Module):
    """y = x / rms(x) * weight, over the last dimension."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **_unused: Any) -> None:
        super().__init__()
        if config.normalization != "RMSNorm" or config.layernorm_zero_centered_gamma:
            raise UserError(
                f"normalization {config.normalization!r} (zero-centered: {config.layernorm_zero_centered_gamma}) "
                "has no twin without Transformer Engine",
                mend="use RMSNorm with weights around one, or install the extra `te`",
            )
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
