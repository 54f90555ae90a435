"""The pack plan: which rows are computed together, in which micro-batch, on which data-parallel rank.

A pack is a micro-batch without padding between rows, as long as its own rows, and no longer than `max_tokens`. So the
number of packs decides how long they are, and the least number is taken that holds all rows, is equal on all ranks and
a multiple of what the pipeline wants. Cost decides which rank computes what: tokens alone misjudge long rows, whose
attention is quadratic, and rows with images, which are encoded once for all rows of a pack.

Invariants
    1. Every row is in the plan once. Every rank has as many packs, a multiple of `multiple`.
    2. A pack, padded, has at most `max_tokens` slots, and at most `max_patches` patches.
    3. A pack is empty only if there are fewer rows than packs; it is run as pure padding, weight 0.
    4. The same input gives the same plan everywhere. Longest packs come first on each rank, so that memory is asked
       for once and ranks of a pipeline work on packs of like length at the same time; rows in a pack ascend.

Example:
    >>> rows = [RowSize(length, float(length)) for length in (50, 20, 30, 40, 10, 50)]
    >>> plan = plan_packs(rows, [], PackLimits(max_tokens=100, dp=2, multiple=1))
    >>> plan.packs, plan.lengths, plan.fill, plan.spread
    ((((0, 3, 4),), ((1, 2, 5),)), ((100,), (100,)), 1.0, 0.0)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hpt_megatron.errors import UserError
from hpt_megatron.layout.bins import Bin, Load, fewest_packs
from hpt_megatron.layout.ranks import deal, level
from hpt_megatron.layout.sizes import ImageSize, PackLimits, RowSize

__all__ = ["ImageSize", "PackLimits", "PackPlan", "RowSize", "plan_packs"]


@dataclass(frozen=True, kw_only=True)
class PackPlan:
    """Rows by [rank][micro-batch], with the slots and the cost of every pack."""

    packs: tuple[tuple[tuple[int, ...], ...], ...]
    lengths: tuple[tuple[int, ...], ...]  # slots of each pack, padded
    costs: tuple[tuple[float, ...], ...]  # of each pack, its images counted once
    tokens: int  # of all rows

    @property
    def fill(self) -> float:
        """The share of slots that carry a token."""
        return self.tokens / sum(map(sum, self.lengths))

    @property
    def rank_costs(self) -> tuple[float, ...]:
        """The cost of each rank's packs."""
        return tuple(sum(costs) for costs in self.costs)

    @property
    def spread(self) -> float:
        """How much more the costliest rank has than the cheapest; infinite where one has nothing."""
        high, low = max(self.rank_costs), min(self.rank_costs)
        return high / low - 1 if low > 0 else float("inf") if high > 0 else 0.0


def plan_packs(rows: Sequence[RowSize], images: Sequence[ImageSize], limits: PackLimits) -> PackPlan:
    """Rows into packs, and packs onto ranks."""
    _check(rows, images, limits)
    load = Load(rows, images, limits)
    ranks = deal(fewest_packs(load), limits.dp)
    level(ranks)
    ordered = [[_sorted(load, one) for one in rank] for rank in ranks]
    for rank in ordered:
        rank.sort(key=lambda one: (-one.slots, -one.cost, one.rows))
    return PackPlan(
        packs=tuple(tuple(tuple(one.rows) for one in rank) for rank in ordered),
        lengths=tuple(tuple(limits.pack_slots(one.slots) for one in rank) for rank in ordered),
        costs=tuple(tuple(one.cost for one in rank) for rank in ordered),
        tokens=sum(row.length for row in rows),
    )


def _sorted(load: Load, one: Bin) -> Bin:
    """The pack, its rows ascending; its cost is summed anew, without what exchanges left in the last bits."""
    again = Bin(load)
    for row in sorted(one.rows):
        again.add(row)
    return again


def _check(rows: Sequence[RowSize], images: Sequence[ImageSize], limits: PackLimits) -> None:
    """Every row fits a pack of its own."""
    for number, row in enumerate(rows):
        if row.length < 1:
            raise UserError(f"row {number} has {row.length} tokens", mend="leave rows without a token out")
        lost = [image for image in row.images if not 0 <= image < len(images)]
        if lost:
            raise UserError(
                f"row {number} shows image {lost[0]}, but there are {len(images)}", mend="ids from 0, in their list"
            )
        slots = limits.row_slots(row.length)
        if slots > limits.capacity:
            raise UserError(
                f"row {number} of {row.length} tokens takes {slots} slots, "
                f"and a pack of at most {limits.max_tokens} tokens has {limits.capacity}",
                mend=f"a limit of {limits.pack_slots(slots)} (trainer.ppo_max_token_len_per_gpu x cp), or shorter rows",
            )
        patches = sum(images[image].patches for image in set(row.images))
        if limits.max_patches is not None and patches > limits.max_patches:
            raise UserError(
                f"row {number} of {row.length} tokens shows {patches} patches, and a pack takes {limits.max_patches}",
                mend=f"a limit of {patches} patches or more, or smaller or fewer images",
            )
