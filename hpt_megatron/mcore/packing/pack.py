"""From rows to the tensors of one micro-batch on one rank.

Slot j of a row predicts its token j + 1: labels and every column are shifted by one when they are laid out, so that
nothing is shifted where sequences are cut. Only slots with a wanted label reach the head. A head that judges what was
read, up to a row's last token, is asked with `own`: then each wanted token is answered by its own slot.

Invariants
    1. All ranks of one data-parallel replica build their packs from the same rows, and so agree on every length.
    2. `slots` and `labels` are those of this context-parallel rank; over the ranks each wanted token comes once.
    3. The order of `slots` is that of the rank's tokens; `token` says where each stands in the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hpt_megatron.mcore.packing.pictures import Pictures, lay_out
from hpt_megatron.mcore.packing.positions import Placeholders, row_positions
from hpt_megatron.mcore.packing.sequences import PackedSequences, PackShape, Place, local
from hpt_megatron.protocol.batch import Batch


@dataclass(frozen=True)
class Pack:
    """One micro-batch on one rank."""

    ids: Tensor  # [1, T / cp]
    positions: Tensor  # [3, T], of the whole pack
    sequences: PackedSequences
    slots: Tensor  # [n] among this rank's tokens
    labels: Tensor  # [n]
    token: Tensor  # [n] the label's place among the tokens of `rows`
    row: Tensor  # [n] the row of each
    pictured: Tensor  # [n] whether that row shows an image
    columns: Mapping[str, Tensor]  # [n] each
    num_rows: int
    total: int
    pictures: Pictures | None
    odd: list[Tensor] = field(default_factory=list)  # [n] where the gradient left the head as no number

    def to(self, device: torch.device | str | int) -> "Pack":
        """The same on a device."""
        names = ("ids", "positions", "slots", "labels", "token", "row", "pictured")
        moved = {name: getattr(self, name).to(device) for name in names}
        columns = {name: column.to(device) for name, column in self.columns.items()}
        pictures = self.pictures.to(device) if self.pictures else None
        return Pack(
            **moved,
            sequences=self.sequences,
            columns=columns,
            num_rows=self.num_rows,
            total=self.total,
            pictures=pictures,
        )


def pack_shape(batch: Batch, place: Place, at_least: int = 0) -> PackShape:
    """How long a pack of these rows is."""
    return PackShape.of(batch.rows.lengths.tolist(), place.tp, place.cp, at_least)


def build_pack(
    batch: Batch,
    wanted: Tensor,
    place: Place,
    holders: Placeholders | None,
    at_least: int = 0,
    own: bool = False,
    device: str = "cuda",
) -> Pack:
    """Rows, and the tokens about which the head is asked, as a micro-batch of this rank.

    All token columns of the rows but `ids` come along. The slot before a token answers, with `own` the token's own.
    """
    before = 0 if own else 1
    rows, shape = batch.rows, pack_shape(batch, place, at_least)
    starts = torch.tensor(shape.starts[: rows.num_rows], dtype=torch.int64)
    slot_of_token = rows.position + rows.per_token(starts)
    ids = torch.zeros(shape.total, dtype=torch.int64)
    ids[slot_of_token] = rows.tokens["ids"]
    positions = torch.zeros(3, shape.total, dtype=torch.int64)
    positions[:, slot_of_token] = batch_positions(batch, holders)
    labelled = (wanted & (rows.position >= before)).nonzero()[:, 0]
    token_of_slot = torch.full((shape.total,), -1)
    token_of_slot[slot_of_token[labelled] - before] = labelled
    mine = local(shape, place.cp_rank, place.cp)
    token = token_of_slot[mine]
    slots = (token >= 0).nonzero()[:, 0]
    token = token[slots]
    columns = {name: column[token] for name, column in rows.tokens.items() if name != "ids"}
    pictured = torch.tensor([bool(batch.shown_by(row)) for row in range(rows.num_rows)], dtype=torch.bool)
    return Pack(
        ids=ids[mine][None],
        positions=positions,
        sequences=PackedSequences.of(shape, place.cp_rank, place.cp, device),
        slots=slots,
        labels=rows.tokens["ids"][token],
        token=token,
        row=rows.row_of_token[token],
        pictured=pictured[rows.row_of_token[token]],
        columns=columns,
        num_rows=rows.num_rows,
        total=shape.total,
        pictures=lay_out(batch, holders, slot_of_token, shape, place) if holders else None,
    ).to(device)


def batch_positions(batch: Batch, holders: Placeholders | None) -> Tensor:
    """[3, T] positions of every token, row after row."""
    images, ids = batch.images, batch.rows.tokens["ids"]
    parts = []
    for number, row_ids in enumerate(torch.split(ids, batch.rows.lengths.tolist())):
        shown = batch.shown_by(number)
        grids, seconds = [images.grid_list[each] for each in shown], [float(images.seconds[each]) for each in shown]
        parts.append(row_positions(row_ids, grids, seconds, holders))
    return torch.cat(parts, 1) if parts else torch.zeros(3, 0, dtype=torch.int64)


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
