"""Numbers from the hidden state of a token: a value for every token, or the rewards at the last one of a sequence.

A critic has one, a reward model one for each of its heads.

Decision: weight and bias start at zero. Values begin at 0, so first advantages are the returns themselves, and the
hidden states get no gradient from a head that knows nothing yet. No random draw means that every layout starts alike.

Invariants:
    1. Under sequence parallelism each tensor-parallel rank sees its part of the sequence. The parameters are marked,
       and `finalize_model_grads` sums their gradients over the group. Gather the answers with
       `gather_from_sequence_parallel_region(values, tensor_parallel_output_grad=False)`: every rank computes the same
       loss from them, so each takes its slice of the gradient back and nothing is summed.
    2. The product is in float32 whatever the parameters' precision: bf16 would leave a value three digits.

Example:
    >>> last_tokens(Rows.from_lists({"trained": [[0, 1, 0], [1, 1]]})).tolist()
    [1, 4]
"""

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional

from hpt_megatron.protocol.rows import Rows


class ScalarHead(torch.nn.Module):
    """hidden [..., H] to float32 [..., numbers]."""

    def __init__(self, config: TransformerConfig, numbers: int = 1) -> None:
        super().__init__()
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        dtype = config.params_dtype
        self.weight = torch.nn.Parameter(torch.zeros((numbers, config.hidden_size), dtype=dtype, device=device))
        self.bias = torch.nn.Parameter(torch.zeros(numbers, dtype=dtype, device=device))
        for parameter in (self.weight, self.bias):
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(hidden.float(), self.weight.float(), self.bias.float())


def last_tokens(rows: Rows) -> torch.Tensor:
    """[R] where a row's response ends: its last trained token, or the row's own where nothing of it is trained."""
    ends = rows.starts + rows.lengths - 1
    trained = rows.tokens.get("trained")
    if trained is None:
        return ends
    found = rows.last(trained)
    return torch.where(found >= 0, found, ends)
