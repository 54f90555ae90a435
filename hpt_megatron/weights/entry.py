"""Tensors of a checkpoint fused and cut into a rank's part of a parameter, and joined again, by kind (`kinds.py`).

Invariants
    1. `join(shards) == tensors` for the shards of all ranks, for any number of ranks that divides.
    2. Nothing here knows about processes: a shard is cut from tensors, and joined from tensors.

Example:
    >>> import torch
    >>> gate, up = torch.arange(4.0)[:, None], 10 + torch.arange(4.0)[:, None]
    >>> shards = [cut("gated", [gate, up], rank, 2) for rank in (0, 1)]
    >>> shards[1].flatten().tolist(), torch.equal(join("gated", shards)[0], gate)
    ([2.0, 3.0, 12.0, 13.0], True)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hpt_megatron.errors import UserError
from hpt_megatron.weights.kinds import PLAIN, Entry, Fusion, Kind

__all__ = ["Entry", "Fusion", "Kind", "cut", "join"]


def cut(kind: Kind, tensors: Sequence[Tensor], rank: int, ranks: int, fusion: Fusion = PLAIN) -> Tensor:
    """This rank's part of a parameter, from the checkpoint's tensors."""
    if kind == "replicated":
        return tensors[0]
    if kind == "columns":
        return tensors[0].chunk(ranks, 1)[rank]
    if kind == "gated":
        return torch.cat([tensor.chunk(ranks)[rank] for tensor in tensors])
    whole = _interleave(tensors, fusion) if kind == "qkv" else tensors[0]
    if kind == "vocabulary":
        if len(whole) != fusion.vocabulary:  # padding would make up for missing tokens without a word
            what = f"the vocabulary has {len(whole)} rows where the model has {fusion.vocabulary}"
            raise UserError(what, mend="is it the checkpoint of this model?")
        missing = fusion.padded_vocabulary - len(whole)
        whole = torch.cat((whole, whole.new_zeros(missing, *whole.shape[1:]))) if missing else whole
    return whole.chunk(ranks)[rank]


def join(kind: Kind, shards: Sequence[Tensor], fusion: Fusion = PLAIN) -> list[Tensor]:
    """The checkpoint's tensors, from the parts of all ranks in their order."""
    if kind == "replicated":
        return [shards[0]]
    if kind == "columns":
        return [_together(shards, 1)]
    if kind == "gated":
        halves = [shard.chunk(2) for shard in shards]
        return [_together([half[part] for half in halves]) for part in (0, 1)]
    whole = _together(shards)
    if kind == "vocabulary":
        return [whole[: fusion.vocabulary]]
    return _separate(whole, fusion) if kind == "qkv" else [whole]


def _together(parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Parts along an axis; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)


def _interleave(tensors: Sequence[Tensor], fusion: Fusion) -> Tensor:
    """[q; k; v] to, for each group, its queries, its key and its value."""
    grouped = [tensor.view(fusion.groups, -1, *tensor.shape[1:]) for tensor in tensors]
    return torch.cat(grouped, 1).flatten(0, 1)


def _separate(whole: Tensor, fusion: Fusion) -> list[Tensor]:
    grouped = whole.view(fusion.groups, -1, *whole.shape[1:])
    sizes = [grouped.shape[1] - 2 * fusion.head_dim, fusion.head_dim, fusion.head_dim]
    return [part.flatten(0, 1) for part in torch.split(grouped, sizes, 1)]
