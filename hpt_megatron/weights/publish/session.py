"""Where trainer and engine meet to move weights, and what they must agree on before the first byte.

    kind     shared: the receivers map the sender's memory; sent: it sends them copies
    device   cpu or cuda: what the buffers are made of, and so gloo or NCCL when they are sent
    place    shared: a folder that only this user can enter; sent: HOST:PORT on the network of the job

A session serves some engines until it is closed or something in it fails; then the next one starts from nothing. A
replica that comes late gets a session of its own.

Invariants
    1. Both sides compare the fingerprint of the plan; a difference is an error that names both.
    2. `open_place` makes the folder in memory, for this user alone, and only once the plan's buffers fit.

Example:
    session = Session.shared("cpu", fingerprint(plan))  # the driver; its `plain()` goes to both sides
"""

import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hpt_megatron.errors import UserError

Kind = Literal["shared", "sent"]
MEMORY = Path("/dev/shm")
MIB = 1 << 20


@dataclass(frozen=True)
class Session:
    """One meeting of trainer and engine."""

    kind: Kind
    device: Literal["cpu", "cuda"]
    place: str
    fingerprint: str
    senders: int
    receivers: int
    timeout_s: float = 600.0

    def plain(self) -> dict[str, Any]:
        """As plain values, to travel."""
        return asdict(self)

    @property
    def folder(self) -> Path:
        """Of a shared session."""
        return Path(self.place)

    def close(self) -> None:
        """Removes what a shared session left on the host; whoever opened it calls this."""
        if self.kind == "shared":
            shutil.rmtree(self.place, ignore_errors=True)


def open_place(needed: int) -> str:
    """A new folder in the host's memory for buffers of so many bytes."""
    parent = MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    free = shutil.disk_usage(parent).free
    if needed > free:
        what = f"{needed / MIB:,.0f} MiB of buffers do not fit into the {free / MIB:,.0f} MiB that are free"
        mend = "a smaller rollout.publish_bucket_mb, or a container with more shared memory (--shm-size)"
        raise UserError(what, where=str(parent), mend=mend)
    return tempfile.mkdtemp(prefix="hpt-weights-", dir=parent)
