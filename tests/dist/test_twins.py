"""The twins of CUDA-only parts, each against the part of torch that computes the same.

Not covered: equality with Transformer Engine and apex themselves, which need a GPU.
"""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from processes import run
from tiny_gpt import Case, transformer_config
from torch.nn import functional

from hpt_megatron.errors import UserError
from hpt_megatron.mcore.step.adam import Adam
from hpt_megatron.mcore.model.attention import CoreAttention
from hpt_megatron.mcore.initialize import Rendezvous, initialize
from hpt_megatron.mcore.model.norm import RMSNorm
from hpt_megatron.mcore.packing.sequences import positions

pytestmark = pytest.mark.slow


def groups(seed: int) -> list[dict[str, Any]]:
    """Three parameter groups as a data-parallel rank holds them: two with parameters and one without."""
    generator = torch.Generator().manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 5), (9,), (4, 4))]
    return [
        {"params": params[:2], "weight_decay": 0.1, "lr": 3e-3},
        {"params": [], "weight_decay": 0.0},
        {"params": params[2:], "weight_decay": 0.0, "betas": (0.8, 0.99), "eps": 1e-6},
    ]


def steps(optimizer: torch.optim.Optimizer, count: int, seed: int = 0) -> list[torch.Tensor]:
    """Several steps on drawn gradients, with a learning rate that changes; answers the parameters."""
    generator = torch.Generator().manual_seed(seed)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        optimizer.step()
    return params


@pytest.mark.parametrize(("decoupled", "theirs"), [(True, torch.optim.AdamW), (False, torch.optim.Adam)])
def test_adam_is_torch_s_bit_for_bit(decoupled: bool, theirs: type[torch.optim.Optimizer]) -> None:
    """Ten steps over several groups, one of them empty, with weight decay of either kind."""
    ours = steps(Adam(groups(1), lr=1e-2, adam_w_mode=decoupled), 10)
    for mine, other in zip(ours, steps(theirs(groups(1), lr=1e-2), 10), strict=True):
        assert torch.equal(mine, other)


def test_adam_keeps_the_contract_that_checkpoints_lean_on() -> None:
    """`step` per group, also in an empty one; two moments per parameter and nothing else."""
    optimizer = Adam(groups(1))
    assert all("step" not in group for group in optimizer.param_groups)
    params = steps(optimizer, 3)
    assert [group["step"] for group in optimizer.param_groups] == [3, 3, 3]
    assert [list(optimizer.state[p]) for p in params] == [["exp_avg", "exp_avg_sq"]] * 3


def test_adam_goes_on_from_a_state_dict_bit_for_bit() -> None:
    """In another optimizer that has made no step."""
    first = Adam(groups(1))
    steps(first, 4, seed=1)
    second = Adam(groups(2))
    for mine, other in zip(second.param_groups, first.param_groups, strict=True):
        for to, source in zip(mine["params"], other["params"], strict=True):
            to.data.copy_(source.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # as from a file
    for mine, other in zip(steps(second, 4, seed=2), steps(first, 4, seed=2), strict=True):
        assert torch.equal(mine, other)


def test_adam_skips_a_parameter_without_a_gradient() -> None:
    """It keeps its value and gets no state."""
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = Adam([used, unused])
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert unused not in optimizer.state


def test_the_norm_is_torch_s_and_its_weight_is_marked_for_sequence_parallelism() -> None:
    """The mark is what makes megatron-core sum its gradient over the tensor-parallel group."""
    x = torch.randn(3, 64)
    for tp, marked in ((1, False), (2, True)):
        norm = RMSNorm(transformer_config(Case(tp=tp)), 64, eps=1e-5)
        torch.nn.init.normal_(norm.weight)
        assert torch.equal(norm(x), functional.rms_norm(x, (64,), norm.weight, 1e-5))
        assert norm.weight.sequence_parallel is marked
    config = transformer_config(Case())
    config.normalization = "LayerNorm"
    with pytest.raises(UserError, match=r"'LayerNorm' .* has no twin without Transformer Engine"):
        RMSNorm(config, 64)


def whole(name: str) -> torch.Tensor:
    """The query, key or value of all 16 tokens: two rows, four heads for queries and two for keys."""
    heads = 4 if name == "query" else 2
    return torch.randn(16, 2, heads, 32, generator=torch.Generator().manual_seed(len(name)))


def attend(where: Rendezvous, kind: AttnMaskType) -> list[tuple[torch.Tensor, ...]]:
    """Output and gradients of this context-parallel rank, and where its tokens stand."""
    initialize(cp=where.world_size, where=where)
    mine = positions(16 // where.world_size, where.rank, where.world_size)
    inputs = [whole(name)[mine].requires_grad_() for name in ("query", "key", "value!")]
    attention = CoreAttention(transformer_config(Case(cp=where.world_size)), attn_mask_type=kind)
    out = attention(*inputs)
    (out * torch.linspace(0, 1, 16)[mine, None, None]).sum().backward()
    return [mine.numpy(), out.detach().numpy(), *(x.grad.numpy() for x in inputs)]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("kind", [AttnMaskType.causal, AttnMaskType.no_mask])
def test_attention_cut_over_ranks_is_attention_over_the_whole(kind: AttnMaskType, ranks: int) -> None:
    """Output and all gradients, with fewer key heads than query heads, put together from the ranks' zig-zag pieces."""
    expected = [torch.from_numpy(x) for x in run(1, attend, kind)[0]]
    query, key, value = (whole(name).permute(1, 2, 0, 3) for name in ("query", "key", "value!"))
    plain = functional.scaled_dot_product_attention(
        query, key, value, is_causal=kind == AttnMaskType.causal, enable_gqa=True
    )
    torch.testing.assert_close(expected[1], plain.permute(2, 0, 1, 3).reshape(16, 2, -1))
    pieces = [[torch.from_numpy(x) for x in rank] for rank in run(ranks, attend, kind)]
    order = torch.cat([piece[0] for piece in pieces]).argsort()
    for which in range(1, 5):
        torch.testing.assert_close(torch.cat([piece[which] for piece in pieces])[order], expected[which])


def test_positions_are_those_by_which_megatron_cuts_a_sequence() -> None:
    """Every token once; chunks r and 2n-1-r on rank r."""
    assert positions(4, 0, 2).tolist() == [0, 1, 6, 7]
    assert torch.cat([positions(6, rank, 4) for rank in range(4)]).sort()[0].tolist() == list(range(24))
    with pytest.raises(UserError, match="pad sequences to a multiple of 4"):
        positions(3, 0, 2)


class One:
    """A group of one process, for a layer that asks for nothing but its size."""

    def size(self) -> int:
        return 1


def test_what_the_attention_twin_cannot_do_is_refused_in_one_line() -> None:
    """Masks, biases and windows of other kinds."""
    groups_of_one = ProcessGroupCollection()
    groups_of_one.cp = One()
    attention = CoreAttention(transformer_config(Case()), AttnMaskType.causal, groups_of_one)
    qkv = [whole(name) for name in ("query", "key", "value!")]
    with pytest.raises(UserError, match="mask type padding needs Transformer Engine"):
        attention(*qkv, attn_mask_type=AttnMaskType.padding)
    with pytest.raises(UserError, match="attention_bias"):
        attention(*qkv, attention_bias=torch.zeros(1))
    config = transformer_config(Case())
    config.window_size = (4, 0)
    with pytest.raises(UserError, match="window"):
        CoreAttention(config, AttnMaskType.causal, groups_of_one)


@pytest.mark.parametrize(
    ("package", "content", "problem"),
    [
        ("transformer_engine", "raise RuntimeError('bare package')", "RuntimeError: bare package"),
        ("apex", "", "ModuleNotFoundError: No module named 'apex.optimizers'"),
    ],
    ids=["transformer_engine", "apex"],
)
def test_an_unusable_part_is_hidden_and_says_why(tmp_path: Path, package: str, content: str, problem: str) -> None:
    """As the bare transformer_engine and the registry's other apex are; megatron-core then imports without them."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(content)
    code = (
        "from hpt_megatron.mcore import capability, patches\n"
        "import megatron.core.optimizer as o\n"
        "patches.apply()\n"
        f"part = capability.{package}()\n"
        "print(part.there, o.Adam.__module__, part.problem)"
    )
    environment = {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == f"False hpt_megatron.mcore.step.adam {problem}", done.stderr
