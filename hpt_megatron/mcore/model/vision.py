"""The vision tower of Qwen2.5-VL: transformers' own module, with our attention and our exchange.

Decision: the tower is not rebuilt. Its class is the reference itself, so its numbers and its names are the
checkpoint's; what is ours is how attention treats segments of many lengths, and how the work is spread (`pictures.py`).

Invariants
    1. The class follows the sizes of the run's configuration, never its own defaults.
    2. Its rotary frequencies stay in float32 whatever the parameters are in.
    3. Its parameters carry megatron-core's mark `sequence_parallel`: each tensor-parallel rank has seen other images,
       so their gradients are summed over tp (and over cp and dp with all others).
    4. Attention is exact by segment: windows and whole frames are segments of one kind, and segments of one length are
       computed as one batch.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from hpt_megatron.config.model import VisionConfig
from hpt_megatron.mcore.packing.pictures import Pictures

# "flash" in the name makes transformers hand over whole packs with their bounds instead of looping over segments.
ATTENTION = "segments_as_flash"


def segment_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **how: Any
) -> tuple[Tensor, None]:
    """[1, heads, patches, channels] with `cu_seq_lens_q`, answered as [1, patches, heads, channels]."""
    bounds = how["cu_seq_lens_q"].tolist()
    lengths = [end - start for start, end in pairwise(bounds)]
    starts_by_length: dict[int, list[int]] = {}
    for start, length in zip(bounds[:-1], lengths, strict=True):
        starts_by_length.setdefault(length, []).append(start)
    packed = torch.stack((query[0], key[0], value[0])).transpose(1, 2)  # [3, patches, heads, channels]
    if len(starts_by_length) == 1:
        return _batched(packed, lengths[0], how["scaling"])[None], None
    out = packed.new_empty(packed.shape[1:])
    places, parts = [], []
    for length, starts in starts_by_length.items():
        place = (torch.tensor(starts)[:, None] + torch.arange(length)).flatten().to(packed.device)
        parts.append(_batched(packed.index_select(1, place), length, how["scaling"]))
        places.append(place)
    return out.index_copy(0, torch.cat(places), torch.cat(parts))[None], None


def _batched(packed: Tensor, length: int, scale: float) -> Tensor:
    """Attention within segments of one length that stand one after the other."""
    query, key, value = packed.unflatten(1, (-1, length)).transpose(2, 3)
    out = functional.scaled_dot_product_attention(query, key, value, scale=scale)
    return out.transpose(1, 2).flatten(0, 1)


AttentionInterface.register(ATTENTION, segment_attention)


def build_tower(vision: VisionConfig, dtype: torch.dtype, device: torch.device | str | int) -> torch.nn.Module:
    """The tower, without weights; the caller loads them."""
    config = Qwen2_5_VLVisionConfig(
        depth=vision.depth,
        hidden_size=vision.hidden_size,
        hidden_act="silu",
        intermediate_size=vision.intermediate_size,
        num_heads=vision.num_heads,
        in_channels=vision.in_channels,
        patch_size=vision.patch_size,
        spatial_merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        tokens_per_second=vision.tokens_per_second,
        window_size=vision.window_size,
        out_hidden_size=vision.out_hidden_size,
        fullatt_block_indexes=list(vision.fullatt_block_indexes),
    )
    config._attn_implementation = "sdpa"
    on_meta = device == "meta"
    with torch.device("meta" if on_meta else "cpu"):
        tower = Qwen2_5_VisionTransformerPretrainedModel(config)
    tower.config._attn_implementation = ATTENTION  # at construction, transformers would look for a package of that name
    for param in tower.parameters():
        param.data = param.data.to(dtype)  # not `tower.to(dtype)`, which would round the frequencies too
        param.sequence_parallel = True  # type: ignore[attr-defined]
    return tower if on_meta else tower.to(device)


class Exchange(torch.autograd.Function):
    """Rows to the ranks that need them; backwards, their gradients to the ranks that made them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, plan: Pictures, group: dist.ProcessGroup) -> Tensor:
        ctx.plan, ctx.group = plan, group
        got = rows.new_empty((sum(plan.receive_sizes), rows.shape[1]))
        dist.all_to_all_single(got, rows.contiguous(), plan.receive_sizes, plan.send_sizes, group=group)
        return got

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient, plan = gradients[0], ctx.plan
        back = gradient.new_empty((sum(plan.send_sizes), gradient.shape[1]))
        dist.all_to_all_single(back, gradient.contiguous(), plan.send_sizes, plan.receive_sizes, group=ctx.group)
        return back, None, None


def see(tower: torch.nn.Module, plan: Pictures, group: dist.ProcessGroup | None) -> Tensor:
    """[r, hidden] the merged embeddings of this rank's placeholders, in the order of `plan.slots`."""
    made = _encode(tower, plan)
    rows = made[plan.send] if len(plan.grids) else made[:0]
    if group is not None and group.size() > 1:
        rows = Exchange.apply(rows, plan, group)
    # An empty share, or one nobody on this rank uses, still belongs to the graph: its collectives must run.
    return rows + (made[:1] * 0.0).sum()


def _encode(tower: torch.nn.Module, plan: Pictures) -> Tensor:
    grids, patches = plan.grids, plan.patches
    if not len(grids):
        merge = tower.config.spatial_merge_size
        channels = tower.config.in_channels * tower.config.temporal_patch_size * tower.config.patch_size**2
        grids, patches = torch.tensor([[1, merge, merge]]), patches.new_zeros(merge * merge, channels)
    dtype = next(tower.parameters()).dtype
    out: Tensor = tower(patches.to(dtype), grid_thw=grids.to(patches.device)).pooler_output
    return out
