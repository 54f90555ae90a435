"""Which rank encodes which image of a pack, and which of its tokens need the result.

Decision: the tower runs data-parallel over the tensor- and context-parallel ranks that share a pack. Each encodes its
share of the images, balanced by cost, and an exchange brings every merged embedding to the one rank whose tokens it
replaces. So no rank repeats another's work or receives what it does not use, and the sizes of the tower put no limit on
tensor parallelism.

Invariants
    1. Every rank computes the same plan from the same rows, without a message.
    2. A rank's tokens after the cut (context, then sequence) are disjoint from other ranks', so each use of an image's
       embedding belongs to one rank, and the gradient of the exchange is the exchange backwards.
    3. An image that several rows of the pack show is encoded once and sent to each use.
    4. A rank without a share encodes one empty picture with weight 0, so that its collectives are those of the others.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hpt_megatron.layout.cost import vision_cost
from hpt_megatron.layout.share import share
from hpt_megatron.mcore.packing.positions import Placeholders
from hpt_megatron.mcore.packing.sequences import PackShape, Place, local
from hpt_megatron.protocol.batch import Batch


@dataclass(frozen=True)
class Pictures:
    """One rank's part of the plan of a pack."""

    patches: Tensor  # [p, channels] of this rank's share; empty without one
    grids: Tensor  # [k, 3]
    send: Tensor  # [s] rows of the share's embeddings, in the order of the receiving ranks
    send_sizes: list[int]  # how many of them go to each rank
    receive_sizes: list[int]  # how many come from each rank
    slots: Tensor  # [r] among this rank's tokens (sequence cut included), in the order of what is received

    def to(self, device: torch.device | str | int) -> "Pictures":
        """The same on a device; grids stay, because they are read as numbers."""
        return Pictures(
            self.patches.to(device),
            self.grids,
            self.send.to(device),
            self.send_sizes,
            self.receive_sizes,
            self.slots.to(device),
        )


def lay_out(batch: Batch, holders: Placeholders, slot_of_token: Tensor, shape: PackShape, place: Place) -> Pictures:
    """The plan of a pack for this rank."""
    images, ids = batch.images, batch.rows.tokens["ids"]
    used = sorted(set(batch.shown.tolist()))
    costs = [vision_cost(holders.vision, images.grid_list[each]) for each in used]
    encoder = dict(zip(used, share(costs, place.ranks), strict=True))
    mine = [each for each in used if encoder[each] == place.rank]

    # One line per use of an embedding: who encodes it, which row of that rank's output it is, and where it goes.
    first, filled = {}, [0] * place.ranks
    for each in used:
        first[each] = filled[encoder[each]]
        filled[encoder[each]] += holders.tokens(images.grid_list[each])
    uses = [torch.arange(holders.tokens(images.grid_list[each])) + first[each] for each in batch.shown.tolist()]
    makers = [torch.full((len(use),), encoder[each]) for use, each in zip(uses, batch.shown.tolist(), strict=True)]
    empty = torch.zeros(0, dtype=torch.int64)
    use, maker = torch.cat([*uses, empty]), torch.cat([*makers, empty])
    slot = slot_of_token[holders.marks(ids)]
    taker, there = _owner(shape, place, slot)

    # Both sides sort the same way: by the other rank, then by the slot.
    ordered = torch.argsort(maker * place.ranks * shape.total + taker * shape.total + slot)
    use, maker, taker, there = use[ordered], maker[ordered], taker[ordered], there[ordered]
    sent, received = maker == place.rank, taker == place.rank
    return Pictures(
        patches=images.pick(mine),
        grids=images.grids[mine],
        send=use[sent],
        send_sizes=torch.bincount(taker[sent], minlength=place.ranks).tolist(),
        receive_sizes=torch.bincount(maker[received], minlength=place.ranks).tolist(),
        slots=there[received],
    )


def _owner(shape: PackShape, place: Place, slot: Tensor) -> tuple[Tensor, Tensor]:
    """The rank whose tokens a slot of the pack is among, and where it stands there."""
    owner, there = torch.empty(shape.total, dtype=torch.int64), torch.empty(shape.total, dtype=torch.int64)
    length = shape.total // place.ranks
    for cp_rank in range(place.cp):
        held = local(shape, cp_rank, place.cp)
        at = torch.arange(len(held))
        owner[held], there[held] = cp_rank * place.tp + at // length, at % length
    return owner[slot], there[slot]
