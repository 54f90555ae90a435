"""The attention twin on packed sequences, against plain masked attention over the whole pack.

One process, in a group of one. Not covered: context parallelism, which tests/dist/test_packed_attention_ranks.py shows.
"""

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional

from hpt_megatron.mcore.model.attention import CoreAttention
from hpt_megatron.mcore.packing.sequences import PackedSequences, PackShape

HEADS, GROUPS, CHANNELS = 4, 2, 8


def drawn(total):
    """Query, key and value of a whole pack, as [tokens, heads, channels] that gather gradients."""
    generator = torch.Generator().manual_seed(total)
    return [
        torch.randn(total, heads, CHANNELS, generator=generator).requires_grad_() for heads in (HEADS, GROUPS, GROUPS)
    ]


def dense(shape, weight):
    """[tokens, heads x channels] and the gradients of (output x weight).sum(); the filler's output is 0."""
    inputs = drawn(shape.total)
    real = len(shape.real)
    numbers = torch.repeat_interleave(torch.arange(len(shape.padded)), torch.tensor(shape.padded))
    slots = torch.arange(shape.total)
    mask = (numbers[:, None] == numbers[None, :]) & (slots[None, :] <= slots[:, None])
    query, key, value = (x.transpose(0, 1)[None] for x in inputs)
    repeat = HEADS // GROUPS
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    out = out[0].transpose(0, 1).flatten(1) * (numbers < real)[:, None]
    (out * weight).sum().backward()
    return out.detach(), [x.grad for x in inputs]


class One:
    """A group of one process, for a layer that asks for nothing but its size."""

    def size(self):
        return 1


def twin():
    groups = ProcessGroupCollection()
    groups.cp = One()
    config = TransformerConfig(
        num_layers=1, hidden_size=HEADS * CHANNELS, num_attention_heads=HEADS, num_query_groups=2, attention_dropout=0.0
    )
    return CoreAttention(config, AttnMaskType.causal, groups)


@pytest.mark.parametrize(
    ("lengths", "tp", "at_least"),
    [([7], 1, 0), ([5, 1, 9], 1, 0), ([5, 1, 9], 4, 0), ([1, 1, 1], 1, 0), ([3, 6], 2, 20), ([1], 8, 0)],
)
def test_attention_over_a_pack_is_dense_attention_under_its_mask(lengths, tp, at_least):
    """Output and the gradients of query, key and value; what fills the pack up comes out as 0 and gives none."""
    shape = PackShape.of(lengths, tp, 1, at_least)
    inputs = drawn(shape.total)
    out = twin()(*inputs, packed_seq_params=PackedSequences.of(shape, 0, 1, "cpu"))
    weight = torch.linspace(0.5, 1.5, shape.total)[:, None]
    (out * weight).sum().backward()
    expected, gradients = dense(shape, weight)
    torch.testing.assert_close(out, expected)
    for ours, theirs in zip(inputs, gradients, strict=True):
        torch.testing.assert_close(ours.grad, theirs)
    assert not out[shape.total - shape.tail :].any()


def test_a_pack_of_padding_alone_comes_out_as_zero_with_gradients_of_zero():
    """Not absent: backward must run through it, because other ranks' does."""
    shape = PackShape.of([], 4, 1)
    inputs = drawn(shape.total)
    out = twin()(*inputs, packed_seq_params=PackedSequences.of(shape, 0, 1, "cpu"))
    assert out.tolist() == torch.zeros(4, HEADS * CHANNELS).tolist()
    out.sum().backward()
    assert torch.equal(inputs[0].grad, torch.zeros_like(inputs[0]))


def test_a_token_that_changes_moves_nothing_in_other_rows_nor_before_it():
    shape = PackShape.of([4, 6, 3], 1, 1)
    pack = PackedSequences.of(shape, 0, 1, "cpu")
    query, key, value = drawn(shape.total)
    with torch.no_grad():
        before = twin()(query, key, value, packed_seq_params=pack)
        value[6] += 1.0
        after = twin()(query, key, value, packed_seq_params=pack)
    moved = (before != after).any(1).nonzero()[:, 0].tolist()
    assert moved == [6, 7, 8, 9]
