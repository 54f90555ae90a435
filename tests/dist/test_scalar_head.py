"""The head for values and scalar rewards: one number per token, the same in every layout.

Real processes with megatron-core's own gradient finalisation. Not covered: a whole model below the head.
"""

from typing import Any

import pytest
import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.module import Float16Module
from processes import run
from tiny_gpt import Case, transformer_config
from torch.nn import functional

from hpt_megatron.mcore.initialize import Rendezvous, initialize
from hpt_megatron.mcore.model.scalar_head import ScalarHead, last_tokens
from hpt_megatron.protocol.rows import Rows

pytestmark = pytest.mark.slow

TOKENS, HIDDEN = 24, 64
LAST = torch.tensor([4, 5, 23])


def drawn() -> list[torch.Tensor]:
    """Hidden states, weight, bias, and upstream gradients of the values and of the last tokens' rewards."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((TOKENS, HIDDEN), (1, HIDDEN), (1,), (TOKENS,), (3,))]


def loss_of(values: torch.Tensor) -> torch.Tensor:
    """Something that leans on every value, and on those of the last tokens once more."""
    *_, of_value, of_reward = drawn()
    return (values * of_value).sum() + (values[LAST] * of_reward).sum()


def through_the_head(where: Rendezvous, bf16: bool) -> list[Any]:
    """Values of the whole pack, this rank's gradient of its tokens, and the finished gradients of both parameters."""
    tp = where.world_size
    initialize(tp=tp, where=where)
    config = transformer_config(Case(tp=tp, bf16=bf16))
    config.calculate_per_token_loss = False
    head = ScalarHead(config)
    hidden, weight, bias, *_ = drawn()
    head.load_state_dict({"weight": weight, "bias": bias})
    model = DistributedDataParallel(config, DistributedDataParallelConfig(grad_reduce_in_fp32=True), head)
    rank = parallel_state.get_tensor_model_parallel_rank()
    mine = hidden.to(config.params_dtype).chunk(tp)[rank].clone().requires_grad_()
    values = gather_from_sequence_parallel_region(model(mine).squeeze(-1), tensor_parallel_output_grad=False)
    loss_of(values).backward()
    finalize_model_grads([model])
    assert mine.grad is not None
    answers = (values.detach(), mine.grad.float(), head.weight.main_grad, head.bias.main_grad)
    return [x.numpy() for x in answers]  # tensors travel through files that end with the process


@pytest.mark.parametrize(("ranks", "bf16"), [(1, False), (2, False), (4, False), (2, True)])
def test_values_and_gradients_equal_the_formula(ranks: int, bf16: bool) -> None:
    """Each rank sees its slice of the sequence; every rank ends with the sum.

    In bf16 values are not rounded, and gradients are once: that of the hidden states as a whole, those of the
    parameters as each rank's part of the sum.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    hidden, weight, bias = (x.to(dtype).double().requires_grad_() for x in drawn()[:3])
    right = functional.linear(hidden, weight, bias).squeeze(-1)
    right.retain_grad()
    loss_of(right).backward()
    assert right.grad is not None
    rounding = 2**-8 if bf16 else 0  # bf16 keeps eight digits, the first of them unwritten
    slices = right.grad.chunk(ranks)
    of_parts = [(part[:, None] * h).sum(0).abs() for part, h in zip(slices, hidden.detach().chunk(ranks), strict=True)]
    weight_error = rounding * torch.stack(of_parts).sum(0) + 1e-5
    bias_error = rounding * torch.stack([part.sum().abs() for part in slices]).sum() + 1e-5
    there = [[torch.from_numpy(x).double() for x in rank] for rank in run(ranks, through_the_head, bf16)]
    for values, _, of_weight, of_bias in there:
        torch.testing.assert_close(values, right.detach(), rtol=1e-5, atol=1e-5)
        assert ((of_weight - weight.grad).abs() <= weight_error).all()
        assert ((of_bias - bias.grad).abs() <= bias_error).all()
    of_hidden = torch.cat([rank[1] for rank in there])
    torch.testing.assert_close(of_hidden, hidden.grad, rtol=rounding + 1e-5, atol=1e-5)


def test_the_parameters_keep_their_names_and_marks_and_begin_at_zero() -> None:
    """Also after megatron-core has turned them into bf16."""
    for tp in (1, 2):
        config = transformer_config(Case(tp=tp, bf16=True))
        head = ScalarHead(config)
        assert {name: list(p.shape) for name, p in head.state_dict().items()} == {"weight": [1, HIDDEN], "bias": [1]}
        for parameter in Float16Module(config, head).parameters():
            assert parameter.dtype == torch.bfloat16
            assert parameter.sequence_parallel is (tp > 1)
        values = head(torch.ones(3, 1, HIDDEN, dtype=torch.bfloat16))
        assert values.dtype == torch.float32
        assert torch.equal(values, torch.zeros(3, 1, 1))
        assert ScalarHead(config, numbers=3)(torch.ones(5, 1, HIDDEN)).shape == (5, 1, 3)


def test_the_last_token_is_the_last_of_the_response() -> None:
    """What comes behind it, such as an observation, is not judged; nor is anything left out where nothing is trained."""
    rows = Rows.from_lists({"trained": [[0, 1, 1], [0, 1, 0, 0], [0, 0]], "ids": [[1, 2, 3], [4, 5, 6, 7], [8, 9]]})
    assert last_tokens(rows).tolist() == [2, 4, 8]
    assert last_tokens(rows.only(["ids"])).tolist() == [2, 6, 8]
