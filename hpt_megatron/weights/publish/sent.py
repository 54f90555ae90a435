"""Parcels as copies, between hosts: gloo where there is no GPU, NCCL where there is.

The ranks of the trainer and those of the engines form one group, the trainer's first. Each run of a parcel goes once to
each receiver that it names, without a word around it: both sides know from the plan what comes, in which order.

Invariants
    1. On every pair of ranks the order of sends is the order of receives, the order of travel; so nothing waits in a
       circle, whichever stages send at the same time.
    2. The buffer of a parcel is packed again only when its sends are complete.
    3. The store listens on the session's address alone.

Example: `place="127.0.0.1:23456"`, two senders, one receiver: three processes, of which the receiver is the third.
"""

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from hpt_megatron.errors import HptError
from hpt_megatron.weights.plan.parcels import Parcel, Taken
from hpt_megatron.weights.publish.halves import Halves
from hpt_megatron.weights.publish.session import Session

INTERFACE = "GLOO_SOCKET_IFNAME"
dist: Any = torch.distributed  # its classes for groups without names come without types


class SentOutbox:
    """A sender's side."""

    def __init__(self, session: Session, rank: int, halves_of: tuple[int, int], receivers: Sequence[int]) -> None:
        self.session, self.rank = session, rank
        half, size = halves_of
        self._halves = Halves(half, self._sent)
        self.counted: Counter[int] = Counter()  # bytes by receiver
        self.memory = torch.empty(size, dtype=torch.uint8, device=session.device)

    def accept(self) -> None:
        """Forms the group."""
        self.group = _join(self.session, self.rank)

    def slot(self, parcel: Parcel) -> Tensor:
        """Bytes to pack a parcel into, free for it."""
        at = self._halves.place(parcel)
        self._packed = self.memory[at : at + parcel.size]
        return self._packed

    def post(self, parcel: Parcel) -> None:
        """Sends a parcel's runs."""
        works = []
        for run in parcel.runs:
            for receiver in run.receivers:
                where = self.session.senders + receiver
                with _naming(f"engine rank {receiver}"):
                    works.append(self.group.send([self._packed[run.at : run.at + run.size]], where, 0))
                self.counted[receiver] += run.size
        self._halves.sent(parcel, works)

    def flush(self) -> None:
        """Waits until everything is sent."""
        self._halves.finish_all_but(0)
        if self.session.device == "cuda":
            torch.cuda.current_stream().synchronize()

    def _sent(self, parcel: Parcel, works: list[Any]) -> None:
        """Waits until a parcel is sent."""
        with _naming("an engine's rank"):
            for work in works:
                work.wait()

    def close(self) -> None:
        """Leaves the group; those who wait for this rank are told so by its connections."""
        self._halves.forget()
        _leave(self)


class SentInbox:
    """A receiver's side; its buffer holds one parcel of each sender."""

    def __init__(self, session: Session, rank: int, senders: Sequence[int]) -> None:
        self.session, self.rank = session, rank
        self.counted: Counter[int] = Counter()  # bytes by sender
        self._memory: dict[int, Tensor] = {}
        self.group = _join(session, session.senders + rank)

    def take(self, bucket: int, taken: Taken) -> Tensor:
        """The bytes of a sender's parcel, in which only the runs that name this receiver are filled."""
        memory = self._room(taken.sender, max(at + size for at, size in taken.runs))
        for at, size in taken.runs:
            with _naming(f"trainer rank {taken.sender}"):
                self.group.recv([memory[at : at + size]], taken.sender, 0).wait()
            self.counted[taken.sender] += size
        return memory

    def _room(self, sender: int, size: int) -> Tensor:
        memory = self._memory.get(sender)
        if memory is None or memory.numel() < size:
            memory = self._memory[sender] = torch.empty(size, dtype=torch.uint8, device=self.session.device)
        return memory

    def done(self, bucket: int, taken: Taken) -> None:
        """Nobody waits for this: the sender's memory is its own."""

    def close(self) -> None:
        """Leaves the group."""
        self._memory.clear()
        _leave(self)


def _join(session: Session, rank: int) -> Any:
    """The group of all senders and receivers, apart from any that a process is in already."""
    host, _, port = session.place.rpartition(":")
    size, timeout = session.senders + session.receivers, timedelta(seconds=session.timeout_s)
    options: dict[str, Any] = {"timeout": timeout, "wait_for_workers": False}
    try:
        if rank == 0:
            listener = socket.create_server((host, int(port)))
            options |= {"is_master": True, "master_listen_fd": listener.detach()}
        store = dist.PrefixStore(session.fingerprint, dist.TCPStore(host, int(port), size, **options))
        if session.device == "cuda":
            return _nccl(store, rank, size, timeout)
        return _gloo(store, rank, size, timeout, host)
    except (OSError, RuntimeError) as error:
        what = f"rank {rank} of {size} cannot join: {str(error).splitlines()[0]}"
        raise HptError(what, where=session.place, mend="both sides must plan from the same configuration") from None


def _nccl(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return dist.ProcessGroupNCCL(store, rank, size, options)


def _gloo(store: Any, rank: int, size: int, timeout: timedelta, host: str) -> Any:
    """gloo, listening on the session's network alone."""
    options = dist.ProcessGroupGloo._Options()
    options._timeout = timeout
    name = os.environ.get(INTERFACE)
    if name:
        options._devices = [dist.ProcessGroupGloo.create_device(interface=name)]
    elif host in ("127.0.0.1", "localhost"):
        options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    else:
        options._devices = [dist.ProcessGroupGloo.create_default_device()]
    return dist.ProcessGroupGloo(store, rank, size, options)


@contextlib.contextmanager
def _naming(who: str) -> Iterator[None]:
    """A connection that breaks says who was at its other end."""
    try:
        yield
    except RuntimeError as error:
        raise HptError(f"does not answer any more ({str(error).splitlines()[0][:120]})", where=who) from None


def _leave(side: Any) -> None:
    group = side.__dict__.pop("group", None)
    if group is not None and hasattr(group, "abort"):
        with contextlib.suppress(RuntimeError):  # gloo has nothing to abort: its connections end with it
            group.abort()
