"""The attention twin on packed sequences cut over context-parallel ranks, against dense attention over the whole pack.

Real processes on gloo. Not covered: dropout, and Transformer Engine's own attention.
"""

from typing import Any

import numpy as np
import pytest
import torch
from megatron.core.transformer.enums import AttnMaskType
from processes import run
from tiny_gpt import Case, transformer_config
from torch.nn import functional

from hpt_megatron.mcore.initialize import Rendezvous, initialize
from hpt_megatron.mcore.model.attention import CoreAttention
from hpt_megatron.mcore.packing.sequences import PackedSequences, PackShape, local

pytestmark = pytest.mark.slow

HEADS, GROUPS, CHANNELS = 4, 2, 32
# Rows of different lengths; one token each; a pack that must be longer; no row at all.
PACKS = [([5, 1, 19, 8], 0), ([1, 1], 0), ([9], 40), ([], 0)]


def drawn(total: int) -> list[torch.Tensor]:
    """Query, key and value of a whole pack."""
    generator = torch.Generator().manual_seed(total)
    return [torch.randn(total, heads, CHANNELS, generator=generator) for heads in (HEADS, GROUPS, GROUPS)]


def weight_of(shape: PackShape) -> torch.Tensor:
    """What each token's output counts; the padding of a row counts nothing."""
    weight = torch.zeros(shape.total)
    for start, length in zip(shape.starts, shape.real, strict=False):
        weight[start : start + length] = torch.linspace(0.5, 1.5, length)
    return weight[:, None]


def dense(shape: PackShape) -> list[np.ndarray]:
    """Output and gradients under one mask over the whole pack."""
    inputs = [x.requires_grad_() for x in drawn(shape.total)]
    numbers = torch.repeat_interleave(torch.arange(len(shape.padded)), torch.tensor(shape.padded))
    slots = torch.arange(shape.total)
    mask = (numbers[:, None] == numbers[None, :]) & (slots[None, :] <= slots[:, None])
    query, key, value = (x.transpose(0, 1)[None] for x in inputs)
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    out = out[0].transpose(0, 1).flatten(1) * (numbers < len(shape.real))[:, None]
    (out * weight_of(shape)).sum().backward()
    return [out.detach().numpy(), *(x.grad.numpy() for x in inputs)]


def attend(where: Rendezvous, packs: list[tuple[list[int], int]]) -> list[list[Any]]:
    """For each pack: which slots this rank holds, its output, its gradients."""
    ranks = where.world_size
    initialize(cp=ranks, where=where)
    attention = CoreAttention(transformer_config(Case(cp=ranks)), attn_mask_type=AttnMaskType.causal)
    told = []
    for lengths, at_least in packs:
        shape = PackShape.of(lengths, 1, ranks, at_least)
        mine = local(shape, where.rank, ranks)
        inputs = [x[mine].requires_grad_() for x in drawn(shape.total)]
        out = attention(*inputs, packed_seq_params=PackedSequences.of(shape, where.rank, ranks, "cpu"))
        (out * weight_of(shape)[mine]).sum().backward()
        gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in inputs]  # no key is read of no row
        told.append([mine.numpy(), out.detach().numpy(), *(gradient.numpy() for gradient in gradients)])
    return told


@pytest.mark.parametrize("ranks", [2, 4])
def test_attention_over_packs_cut_over_ranks_is_dense_attention_over_each_pack(ranks: int) -> None:
    """Output and gradients, put together from the ranks' zig-zag pieces."""
    told = run(ranks, attend, PACKS)
    for number, (lengths, at_least) in enumerate(PACKS):
        order = np.concatenate([rank[number][0] for rank in told]).argsort()
        for which, expected in enumerate(dense(PackShape.of(lengths, 1, ranks, at_least)), 1):
            found = np.concatenate([rank[number][which] for rank in told])[order]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=f"{lengths}, part {which}")
