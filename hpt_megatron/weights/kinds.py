"""One line of the weight table: a parameter of the trainer, the checkpoint's tensors it is made of, and its cut.

    trainer      decoder.layers.{layer}.self_attention.linear_qkv.weight
    checkpoint   model.layers.{layer}.self_attn.q_proj.weight, ...k_proj.weight, ...v_proj.weight
    kind         qkv

A kind says how the checkpoint's tensors are fused and how tensor parallelism cuts the result:

    replicated   one tensor, whole on every rank
    rows         one tensor, cut along its first axis
    columns      one tensor, cut along its second axis
    vocabulary   rows, padded with zeros to a multiple that every rank holds evenly
    gated        gate and up; each rank holds its rows of the one over its rows of the other
    qkv          query, key, value; interleaved per KV group (its queries, its key, its value), then cut along the rows.
                 With more ranks than groups a rank holds part of a group: the cut is even whatever it goes through

No torch here: plans are made from the table on hosts that have none.

Example:
    >>> Entry("decoder.final_layernorm.weight", ("model.norm.weight",), "replicated").kind
    'replicated'
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["replicated", "rows", "columns", "vocabulary", "gated", "qkv"]


@dataclass(frozen=True)
class Entry:
    """One line; `{layer}` stands for the number of a layer in all its names alike."""

    trainer: str
    checkpoint: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True)
class Fusion:
    """The sizes that a kind needs: KV groups and channels of a head for `qkv`, rows for `vocabulary`."""

    groups: int = 1
    head_dim: int = 1
    vocabulary: int = 0
    padded_vocabulary: int = 0


PLAIN = Fusion()
"""For kinds that need no sizes."""
