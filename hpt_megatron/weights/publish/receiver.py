"""An engine's rank as a receiver: crate after crate, each of whole modules, as tensors that lie in the sender's memory.

Invariants
    1. The tensors of a crate are to be copied before the next one is asked for: their memory is used again.
    2. After a failure the receiver is closed; a new session is needed.

Example:
    receiver = Receiver(session, rank, {"all": crates})
    for modules, landed in receiver.receive("all"):
        ...  # landed: (Landing, Tensor) pairs that make up these modules
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from hpt_megatron.weights.plan.parcels import Crate, Landing
from hpt_megatron.weights.publish.sent import SentInbox
from hpt_megatron.weights.publish.session import Session
from hpt_megatron.weights.publish.shared import SharedInbox

Landed = list[tuple[Landing, Tensor]]


class Receiver:
    """One rank of an engine; `rank` counts over all engines of the session."""

    def __init__(self, session: Session, rank: int, crates: Mapping[str, Sequence[Crate]], dtype: torch.dtype) -> None:
        self.rank, self.crates, self.dtype = rank, crates, dtype
        senders = sorted({taken.sender for own in crates.values() for crate in own for taken in crate.taken})
        kind = SharedInbox if session.kind == "shared" else SentInbox
        self.inbox: SharedInbox | SentInbox = kind(session, rank, senders)

    @property
    def counted(self) -> Counter[int]:
        """Bytes taken so far, by sender."""
        return self.inbox.counted

    def receive(self, which: str) -> Iterator[tuple[tuple[str, ...], Landed]]:
        """The modules of a plan with what belongs into them; each is let go of when the next is asked for."""
        try:
            for crate in self.crates[which]:
                landed: Landed = []
                for taken in crate.taken:
                    memory = self.inbox.take(crate.bucket, taken)
                    landed += [(landing, self._tensor(memory, landing)) for landing in taken.landings]
                yield crate.modules, landed
                if memory_is_on_device(landed):
                    torch.cuda.current_stream().synchronize()  # what was read must have been read
                for taken in crate.taken:
                    self.inbox.done(crate.bucket, taken)
        except BaseException:
            self.close()
            raise

    def _tensor(self, memory: Tensor, landing: Landing) -> Tensor:
        count = 1
        for size in landing.shape:
            count *= size
        stop = landing.at + count * self.dtype.itemsize
        return memory[landing.at : stop].view(self.dtype).view(landing.shape)

    def close(self) -> None:
        """Ends the session on this side."""
        self.inbox.close()


def memory_is_on_device(landed: Landed) -> bool:
    """Whether reading goes on after the call that started it."""
    return bool(landed) and landed[0][1].is_cuda
