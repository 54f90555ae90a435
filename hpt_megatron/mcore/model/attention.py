"""Core attention on torch's scaled dot product, with context parallelism.

The contract is that of Transformer Engine's attention as megatron-core calls it: query, key and value as
[sequence, batch, heads, channels], fewer key heads than query heads allowed, an answer of [sequence, batch, hidden].

Decision: keys and values are gathered over the context-parallel group, queries stay where they are. That costs memory
for the whole sequence's keys and values in one layer, and needs one collective each way.

Invariants:
    1. Rank r of n holds the chunks r and 2n-1-r of each sequence (`sequences.py`).
    2. In a pack each chunk of queries attends to its own sequence up to its own end, so no work is done for keys that
       a mask would hide; the pack's filler is not computed at all and comes out as 0.
    3. Without packing, the gathered order is by rank, not by position; the mask compares positions.
    4. The gradient of a gathered key is the sum over all ranks that attended to it: a reduce-scatter.
"""

import contextlib
import math
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import tensor_parallel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from hpt_megatron.errors import UserError
from hpt_megatron.mcore.packing.sequences import PackedSequences, positions


class GatherRanks(torch.autograd.Function):
    """Stacks the tensors of all ranks of a group along a new first dimension."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        gathered = x.new_empty((dist.get_world_size(group) * x.shape[0], *x.shape[1:]))
        dist.all_gather_single(gathered, x.contiguous(), group=group)
        return gathered.view(-1, *x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradients[0]
        mine = gradient.new_empty(gradient.shape[1:])
        dist.reduce_scatter_single(mine, gradient.flatten(0, 1).contiguous(), group=ctx.group)
        return mine, None


class CoreAttention(torch.nn.Module):
    """Causal or full attention of one layer's local heads."""

    def __init__(
        self,
        config: TransformerConfig,
        attn_mask_type: AttnMaskType,
        pg_collection: ProcessGroupCollection | None = None,
        softmax_scale: float | None = None,
        attention_dropout: float | None = None,
        **_unused: Any,
    ) -> None:
        super().__init__()
        if config.softmax_type != "vanilla" or config.window_size or config.apply_query_key_layer_scaling:
            raise UserError(
                "attention with a softmax offset, a window or layer scaling has no twin without Transformer Engine",
                mend="leave softmax_type, window_size and apply_query_key_layer_scaling at their defaults",
            )
        self.sequence_parallel = config.sequence_parallel
        self.attn_mask_type = attn_mask_type
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.scale = softmax_scale or 1 / math.sqrt(config.kv_channels)
        groups = pg_collection or ProcessGroupCollection.use_mpu_process_groups(required_pgs=["cp"])
        self.group: dist.ProcessGroup = groups.cp

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> torch.Tensor:
        kind = attn_mask_type or self.attn_mask_type
        self._refuse(kind, attention_mask, attention_bias)
        if packed_seq_params is not None:
            return self._packed(query, key, value, packed_seq_params)
        length, batch = query.shape[:2]
        ranks = self.group.size()
        mask = None
        if ranks > 1:
            pairs = GatherRanks.apply(torch.stack((key, value)), self.group)
            key, value = pairs[:, 0].flatten(0, 1), pairs[:, 1].flatten(0, 1)
        if ranks > 1 and kind == AttnMaskType.causal:
            mine = positions(length, self.group.rank(), ranks)
            theirs = torch.cat([positions(length, rank, ranks) for rank in range(ranks)])
            mask = (theirs[None, :] <= mine[:, None]).to(query.device)
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        with self._random_state():
            out = functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                dropout_p=self.dropout if self.training else 0.0,
                is_causal=mask is None and kind == AttnMaskType.causal,
                scale=self.scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        return out.permute(2, 0, 1, 3).reshape(length, batch, -1)

    def _packed(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pack: PackedSequences
    ) -> torch.Tensor:
        """Queries as [tokens, heads, channels] of this rank; keys and values of the whole pack, chunk by chunk."""
        if pack.order is not None:
            pairs = GatherRanks.apply(torch.stack((key, value)), self.group)
            key, value = (pairs[:, part].flatten(0, 1).index_select(0, pack.order) for part in (0, 1))
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        out = []
        with self._random_state():
            for each in pack.segments:
                whole = each.queries == each.keys
                attended = functional.scaled_dot_product_attention(
                    query[None, :, each.query : each.query + each.queries],
                    key[None, :, each.key : each.key + each.keys],
                    value[None, :, each.key : each.key + each.keys],
                    attn_mask=None if whole else causal_lower_right(each.queries, each.keys),
                    dropout_p=self.dropout if self.training else 0.0,
                    is_causal=whole,
                    scale=self.scale,
                    enable_gqa=query.shape[0] != key.shape[0],
                )
                out.append(attended[0].transpose(0, 1))
        if pack.filler or not out:  # connected to the query, so that the filler's gradient is 0 and not absent
            out.append(query[:, query.shape[1] - pack.filler :].transpose(0, 1) * 0.0)
        return torch.cat(out).flatten(1)

    def _random_state(self) -> contextlib.AbstractContextManager[Any]:
        """Dropout differs between tensor-parallel ranks; under sequence parallelism the layer has seen to that."""
        if self.training and self.dropout and not self.sequence_parallel:
            return tensor_parallel.get_cuda_rng_tracker().fork()  # type: ignore[no-any-return]
        return contextlib.nullcontext()

    def _refuse(self, kind: AttnMaskType, mask: Any, bias: Any) -> None:
        """What this twin cannot do, in one line each."""
        if bias is not None:
            raise UserError("attention_bias is not supported without Transformer Engine")
        if kind not in (AttnMaskType.causal, AttnMaskType.no_mask):
            raise UserError(f"mask type {kind.name} needs Transformer Engine", mend="use causal or no_mask")
        if kind == AttnMaskType.no_mask and mask is not None:
            raise UserError("an attention mask was given to a layer of the kind no_mask", mend="pass None")
