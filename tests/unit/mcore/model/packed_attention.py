"""Drawn queries, keys and values of a pack, and plain attention over them under one dense mask."""

import torch
from torch.nn import functional

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
