"""From a batch to micro-batches: the pack plan of `packs.py` over rows that cost what they cost.

Whoever hands rows out and whoever computes them come here, so both see the same micro-batches. Nothing of torch is
imported: a batch brings its own operations.

Example: for rank, parts in enumerate(split(batch, run)): workers[rank].update(parts)
"""

from typing import TYPE_CHECKING

from hpt_megatron.config.run import RunConfig
from hpt_megatron.layout.cost import language_cost, vision_cost
from hpt_megatron.layout.packs import ImageSize, PackLimits, PackPlan, RowSize, plan_packs
from hpt_megatron.layout.sizes import divisors

if TYPE_CHECKING:
    from hpt_megatron.protocol.batch import Batch

Assigned = tuple[tuple[tuple[int, ...], ...], ...]
"""Rows by [data-parallel rank][micro-batch]."""


def plan(batch: "Batch", run: RunConfig) -> PackPlan:
    """The same with lengths and costs, as they are packed by tokens."""
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


def assigned(batch: "Batch", run: RunConfig) -> Assigned:
    """Which rows make which micro-batch of which data-parallel rank.

    With `use_dynamic_bsz` rows are packed by tokens; without it each micro-batch takes `ppo_micro_batch_size` rows.
    """
    trainer, layout = run.trainer, run.layout
    if trainer.use_dynamic_bsz:
        return plan(batch, run).packs
    return by_count(batch.rows.num_rows, trainer.ppo_micro_batch_size, run.dp, layout.pp if layout.vpp > 1 else 1)


def split(batch: "Batch", run: RunConfig) -> list[list["Batch"]]:
    """The micro-batches of every data-parallel rank."""
    return [[batch.pick(rows) for rows in rank] for rank in assigned(batch, run)]


def by_count(rows: int, size: int, dp: int, multiple: int) -> Assigned:
    """Rows in their order, so many to a micro-batch; the last ones may be empty.

    >>> by_count(5, 2, 2, 1)
    (((0, 1), (4,)), ((2, 3), ()))
    """
    needed = -(-rows // (size * dp * multiple)) * multiple
    pieces = [tuple(range(start, min(start + size, rows))) for start in range(0, size * dp * needed, size)]
    return tuple(tuple(pieces[rank::dp]) for rank in range(dp))
