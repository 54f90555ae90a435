"""From a batch to micro-batches: the pack plan of `layout/packs.py` over rows that cost what they cost."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hpt_megatron.config.run import RunConfig
from hpt_megatron.layout.cost import language_cost, vision_cost
from hpt_megatron.layout.packs import ImageSize, PackLimits, PackPlan, RowSize, plan_packs
from hpt_megatron.mcore.packing.pack import Pack, build_pack, pack_shape
from hpt_megatron.mcore.packing.positions import Placeholders
from hpt_megatron.mcore.packing.sequences import Place, divisors
from hpt_megatron.protocol.batch import Batch


def plan(batch: Batch, run: RunConfig) -> PackPlan:
    """Which rows make which micro-batch of which data-parallel rank."""
    layout, trainer, model = run.layout, run.trainer, run.model
    each, total = divisors(layout.tp, layout.cp)
    rows = [
        RowSize(length, language_cost(model, length), tuple(batch.shown_by(number)))
        for number, length in enumerate(batch.rows.lengths.tolist())
    ]
    images = [
        ImageSize(size, vision_cost(model.vision, grid) if model.vision else 0.0)
        for size, grid in zip(batch.images.sizes, batch.images.grid_list, strict=True)
    ]
    limits = PackLimits(
        max_tokens=trainer.ppo_max_token_len_per_gpu * layout.cp,
        dp=run.dp,
        multiple=layout.pp if layout.vpp > 1 else 1,
        divisor=each,
        total_divisor=total,
        max_patches=trainer.max_patches_per_gpu,
    )
    return plan_packs(rows, images, limits)


def split(batch: Batch, run: RunConfig) -> list[list[Batch]]:
    """The micro-batches of every data-parallel rank.

    With `use_dynamic_bsz` rows are packed by tokens; without it each micro-batch takes `ppo_micro_batch_size` rows.
    """
    trainer, layout = run.trainer, run.layout
    if trainer.use_dynamic_bsz:
        packs = plan(batch, run).packs
    else:
        packs = by_count(batch.rows.num_rows, trainer.ppo_micro_batch_size, run.dp, layout.pp if layout.vpp > 1 else 1)
    return [[batch.select(torch.tensor(rows, dtype=torch.int64)) for rows in rank] for rank in packs]


def by_count(rows: int, size: int, dp: int, multiple: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Rows in their order, so many to a micro-batch; the last ones may be empty.

    >>> by_count(5, 2, 2, 1)
    (((0, 1), (4,)), ((2, 3), ()))
    """
    needed = -(-rows // (size * dp * multiple)) * multiple
    pieces = [tuple(range(start, min(start + size, rows))) for start in range(0, size * dp * needed, size)]
    return tuple(tuple(pieces[rank::dp]) for rank in range(dp))


def build_packs(
    parts: Sequence[Batch],
    wanted: Sequence[Tensor],
    place: Place,
    holders: Placeholders | None,
    pp: int,
    own: bool = False,
    device: str = "cuda",
) -> list[Pack]:
    """The micro-batches on this rank; in a pipeline all are as long as the longest, because messages have one shape."""
    longest = max(pack_shape(part, place).total for part in parts) if pp > 1 else 0
    pairs = zip(parts, wanted, strict=True)
    return [build_pack(part, mask, place, holders, longest, own, device) for part, mask in pairs]
