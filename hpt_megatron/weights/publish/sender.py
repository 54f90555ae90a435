"""A trainer's rank as a sender: it packs the rows that the plan asks of it, parcel by parcel.

Two plans at most: `all`, for engines that have nothing yet, and `trained`, without the modules that stand still, which
is what follows. Both go through one session and one buffer.

Invariants
    1. Every sender packs its parcels in the order of travel, so senders and receivers never wait in a circle.
    2. After a failure the sender is closed; a new session is needed.
    3. `misfits` is empty on every rank before any of them waits for a receiver.

Example:
    sender = Sender(session, rank, {"all": sent_by(parcels(plan), rank)}, dict(parameters_of(models)), oversize)
    sender.meet()          # with all receivers
    sender.send("all")     # bytes by receiver
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hpt_megatron.weights.plan.parcels import Packed, Parcel
from hpt_megatron.weights.publish.halves import halves
from hpt_megatron.weights.publish.sent import SentOutbox
from hpt_megatron.weights.publish.session import Session
from hpt_megatron.weights.publish.shared import SharedOutbox

Outbox = SharedOutbox | SentOutbox


class Sender:
    """One rank of the trainer."""

    def __init__(
        self,
        session: Session,
        rank: int,
        parcels: Mapping[str, Sequence[Parcel]],
        parameters: Mapping[str, Tensor],
        oversize: frozenset[tuple[str, int]] = frozenset(),
    ) -> None:
        self.rank, self.parcels, self.parameters = rank, parcels, parameters
        sizes = [(parcel.size, (which, parcel.bucket) in oversize) for which, own in parcels.items() for parcel in own]
        receivers = sorted(
            {each for own in parcels.values() for parcel in own for run in parcel.runs for each in run.receivers}
        )
        kind = SharedOutbox if session.kind == "shared" else SentOutbox
        self.outbox: Outbox = kind(session, rank, halves(sizes), receivers)

    def meet(self) -> None:
        """Waits for the receivers."""
        try:
            self.outbox.accept()
        except BaseException:
            self.close()
            raise

    @torch.no_grad()
    def send(self, which: str) -> Counter[int]:
        """Sends what a plan asks of this rank; answers bytes by receiver once all of it has been taken."""
        before = Counter(self.outbox.counted)
        try:
            for parcel in self.parcels[which]:
                memory = self.outbox.slot(parcel)
                for row in parcel.rows:
                    self.pack(row, memory)
                self.outbox.post(parcel)
            self.outbox.flush()
        except BaseException:
            self.close()
            raise
        return self.outbox.counted - before

    def pack(self, row: Packed, memory: Tensor) -> None:
        """Copies rows of a parameter to their place in a parcel."""
        piece = row.piece
        rows = self.parameters[piece.source_parameter].narrow(piece.axis, piece.source_at, piece.rows)
        there = memory[row.at : row.at + rows.numel() * rows.element_size()]
        there.view(rows.dtype).view(rows.shape).copy_(rows)

    def close(self) -> None:
        """Ends the session on this side."""
        self.outbox.close()


def misfits(parcels: Mapping[str, Sequence[Parcel]], parameters: Mapping[str, Tensor], element: int) -> list[str]:
    """What a plan asks of a rank that is not there, or not of the shape and the type that the plan says."""
    wrong = []
    for piece in (row.piece for own in parcels.values() for parcel in own for row in parcel.rows):
        name = piece.source_parameter
        here = parameters.get(name)
        if here is None:
            wrong.append(f"{name} is not here")
        elif here.dim() != len(piece.shape) or here.shape[piece.axis] < piece.source_at + piece.rows:
            wrong.append(f"{name} is {list(here.shape)}")
        elif here.element_size() != element:
            wrong.append(f"{name} is {here.dtype}")
    return list(dict.fromkeys(wrong))
