"""One number per token from its hidden state: a value for every token, or a reward at the last one of a sequence.

Decision: weight and bias start at zero. Values begin at 0, so first advantages are the returns themselves, and the
hidden states get no gradient from a head that knows nothing yet. No random draw means that every layout starts alike.

Invariants:
    1. Under sequence parallelism each tensor-parallel rank sees its part of the sequence. The parameters are marked,
       and `finalize_model_grads` sums their gradients over the group. Gather the answers with
       `gather_from_sequence_parallel_region(values, tensor_parallel_output_grad=False)`: every rank computes the same
       loss from them, so each takes its slice of the gradient back and nothing is summed.
    2. The product is in float32 whatever the parameters' precision: bf16 would leave a value three digits.

Example:
    >>> at_last_token(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2, 3])).tolist()
    [2.0, 3.0]
"""

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional


class ScalarHead(torch.nn.Module):
    """hidden [..., H] to float32 [...]."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        dtype = config.params_dtype
        self.weight = torch.nn.Parameter(torch.zeros((1, config.hidden_size), dtype=dtype, device=device))
        self.bias = torch.nn.Parameter(torch.zeros(1, dtype=dtype, device=device))
        for parameter in (self.weight, self.bias):
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(hidden.float(), self.weight.float(), self.bias.float()).squeeze(-1)


def at_last_token(
    of_token: torch.Tensor, cu_seqlens: torch.Tensor, cu_seqlens_padded: torch.Tensor | None = None
) -> torch.Tensor:
    """[sequences] what the last token of each packed sequence has; `of_token` is the whole pack, not a rank's part.

    `cu_seqlens` counts tokens, `cu_seqlens_padded` slots, when sequences are padded inside the pack.
    """
    lengths = cu_seqlens.diff()
    if bool((lengths < 1).any()):
        raise ValueError(f"a sequence without a token has no last one: cu_seqlens {cu_seqlens.tolist()}")
    starts = (cu_seqlens if cu_seqlens_padded is None else cu_seqlens_padded)[:-1]
    return of_token[(starts + lengths - 1).long()]
