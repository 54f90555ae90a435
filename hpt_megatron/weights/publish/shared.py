"""Parcels through memory that both sides map: within a host, on the CPU or on one GPU.

A sender packs a parcel into one half of its buffer (`halves.py`) while the receivers read the other. What says "ready"
and "read" is a socket beside the buffer, so a side that dies is noticed at once, by the end of its socket.

    host     a file in the host's memory; its name is removed when all have mapped it, so nothing stays after a crash
    device   a GPU's memory, opened by the receivers through CUDA IPC; the same tokens, after the GPU is done

Invariants
    1. A half is never written while a receiver may read it.
    2. A receiver reads only the runs that name it; both sides count those bytes.
    3. Nobody else can take part: buffer and socket lie in a folder that only this user can enter.

Example: at tp 2 both ranks of an engine read the rows of a norm where the sender has packed them once.
"""

import base64
import contextlib
import json
import mmap
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpt_megatron.errors import HptError
from hpt_megatron.weights.plan.parcels import Parcel, Taken
from hpt_megatron.weights.publish.halves import Halves
from hpt_megatron.weights.publish.session import Session

TOKEN = struct.Struct("<iq")  # a parcel's bucket, and where it lies
WAIT_S = 0.005
LOOK_S = 0.5


class SharedOutbox:
    """A sender's side."""

    def __init__(self, session: Session, rank: int, halves_of: tuple[int, int], receivers: Sequence[int]) -> None:
        self.session, self.rank, self.receivers = session, rank, tuple(receivers)
        half, size = halves_of
        self._halves = Halves(half, self._read)
        self.counted: Counter[int] = Counter()  # bytes by receiver
        self._peers: dict[int, socket.socket] = {}
        self._path = session.folder / f"{rank}.buffer"
        self.memory, told = _create(self._path, size, session.device)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(session.folder / f"{rank}.socket"))
        self._listener.listen(len(self.receivers) + 1)
        self._told = json.dumps({**told, "fingerprint": session.fingerprint}).encode()

    def accept(self) -> None:
        """Waits for every receiver, and tells each how to open the buffer."""
        deadline = time.monotonic() + self.session.timeout_s
        self._listener.settimeout(LOOK_S)
        while len(self._peers) < len(self.receivers):
            try:
                peer = self._next(deadline)
                peer.settimeout(self.session.timeout_s)
                (rank,) = struct.unpack("<i", _exactly(peer, 4, "a receiver"))
                peer.sendall(struct.pack("<i", len(self._told)) + self._told)
                _exactly(peer, 1, f"receiver {rank}")  # it has mapped the buffer
            except TimeoutError:
                missing = sorted(set(self.receivers) - self._peers.keys())
                raise HptError(f"engine ranks {missing} did not come", where=f"trainer rank {self.rank}") from None
            self._peers[rank] = peer
        for name in (self._path, self.session.folder / f"{self.rank}.socket"):
            name.unlink(missing_ok=True)

    def _next(self, deadline: float) -> socket.socket:
        """Whoever comes; an end, if the driver has given the session up meanwhile."""
        while True:
            try:
                return self._listener.accept()[0]
            except TimeoutError:
                if not self.session.folder.exists():
                    raise HptError("the session was given up", where=f"trainer rank {self.rank}") from None
                if time.monotonic() > deadline:
                    raise

    def slot(self, parcel: Parcel) -> Tensor:
        """Bytes to pack a parcel into, free for it."""
        self._at = self._halves.place(parcel)
        return self.memory[self._at : self._at + parcel.size]

    def post(self, parcel: Parcel) -> None:
        """Tells the receivers of a parcel that it is packed."""
        if self.session.device == "cuda":
            torch.cuda.current_stream().synchronize()
        readers: set[int] = set()
        for run in parcel.runs:
            readers.update(run.receivers)
            for receiver in run.receivers:
                self.counted[receiver] += run.size
        for receiver in readers:
            with _naming(f"engine rank {receiver}"):
                self._peers[receiver].sendall(TOKEN.pack(parcel.bucket, self._at))
        self._halves.sent(parcel, readers)

    def flush(self) -> None:
        """Waits until everything has been read."""
        self._halves.finish_all_but(0)

    def _read(self, parcel: Parcel, readers: set[int]) -> None:
        """Waits until all have read a parcel."""
        for receiver in readers:
            bucket, _ = TOKEN.unpack(_exactly(self._peers[receiver], TOKEN.size, f"engine rank {receiver}"))
            if bucket != parcel.bucket:
                raise HptError(f"engine rank {receiver} has read bucket {bucket}, not {parcel.bucket}")

    def close(self) -> None:
        """Ends the session on this side; receivers that wait are told so by the end of the socket."""
        for peer in (*self._peers.values(), self._listener):
            peer.close()
        self._peers.clear()


class SharedInbox:
    """A receiver's side: one socket and one buffer for every sender."""

    def __init__(self, session: Session, rank: int, senders: Sequence[int]) -> None:
        self.session, self.rank = session, rank
        self.counted: Counter[int] = Counter()  # bytes by sender
        self._peers: dict[int, socket.socket] = {}
        self._memory: dict[int, Tensor] = {}
        try:
            for sender in senders:
                self._meet(sender)
        except BaseException:
            self.close()  # those that were met must not wait for this side
            raise

    def _meet(self, sender: int) -> None:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        deadline = time.monotonic() + self.session.timeout_s
        while True:
            try:
                peer.connect(str(self.session.folder / f"{sender}.socket"))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if not self.session.folder.exists():
                    raise HptError("the session was given up", where=f"engine rank {self.rank}") from None
                if time.monotonic() > deadline:
                    raise HptError(f"trainer rank {sender} did not come", where=f"engine rank {self.rank}") from None
                time.sleep(WAIT_S)
        peer.settimeout(self.session.timeout_s)
        who = f"trainer rank {sender}"
        with _naming(who):
            peer.sendall(struct.pack("<i", self.rank))
            (size,) = struct.unpack("<i", _exactly(peer, 4, who))
            told = json.loads(_exactly(peer, size, who))
            if told["fingerprint"] != self.session.fingerprint:
                what = f"plans {told['fingerprint']} where the engine expects {self.session.fingerprint}"
                raise HptError(what, where=who, mend="both sides must plan from the same configuration")
            self._memory[sender] = _open(self.session.folder / f"{sender}.buffer", told, self.session.device)
            peer.sendall(b"\1")
        self._peers[sender] = peer

    def take(self, bucket: int, taken: Taken) -> Tensor:
        """The bytes of a sender's parcel; those of the runs that name this receiver may be read until `done`."""
        who = f"trainer rank {taken.sender}"
        number, at = TOKEN.unpack(_exactly(self._peers[taken.sender], TOKEN.size, who))
        if number != bucket:
            raise HptError(f"sent bucket {number} where bucket {bucket} is due", where=who)
        self.counted[taken.sender] += sum(size for _, size in taken.runs)
        return self._memory[taken.sender][at:]

    def done(self, bucket: int, taken: Taken) -> None:
        """This receiver has read what it wants of a parcel."""
        with _naming(f"trainer rank {taken.sender}"):
            self._peers[taken.sender].sendall(TOKEN.pack(bucket, 0))

    def close(self) -> None:
        """Ends the session on this side."""
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()
        self._memory.clear()


@contextlib.contextmanager
def _naming(who: str) -> Iterator[None]:
    """A socket that breaks says who was at its other end."""
    try:
        yield
    except TimeoutError:
        raise HptError("does not answer any more", where=who) from None
    except OSError as error:
        raise HptError(f"has ended ({error.strerror or error})", where=who) from None


def _exactly(peer: socket.socket, size: int, who: str) -> bytes:
    """So many bytes from a socket."""
    found = bytearray()
    while len(found) < size:
        with _naming(who):
            more = peer.recv(size - len(found))
        if not more:
            raise HptError("has ended", where=who)
        found += more
    return bytes(found)


def _create(path: Path, size: int, device: str) -> tuple[Tensor, dict[str, Any]]:
    """A sender's buffer, and what a receiver must know to open it."""
    if device == "cuda":
        return _create_on_device(size)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)  # a full memory is an error here, not a bus error later
        mapped = mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
    return torch.frombuffer(mapped, dtype=torch.uint8), {"size": size}


def _open(path: Path, told: dict[str, Any], device: str) -> Tensor:
    """A sender's buffer as a receiver sees it."""
    if device == "cuda":
        return _open_on_device(told)
    descriptor = os.open(path, os.O_RDWR)
    try:
        mapped = mmap.mmap(descriptor, int(told["size"]))
    finally:
        os.close(descriptor)
    return torch.frombuffer(mapped, dtype=torch.uint8)


def _create_on_device(size: int) -> tuple[Tensor, dict[str, Any]]:
    """GPU memory and its CUDA IPC handle, as text."""
    memory = torch.empty(size, dtype=torch.uint8, device="cuda")
    storage: Any = memory.untyped_storage()
    shared = storage._share_cuda_()
    return memory, {
        "size": memory.numel(),
        "handle": [base64.b64encode(part).decode() if isinstance(part, bytes) else part for part in shared],
        "bytes": [isinstance(part, bytes) for part in shared],
    }


def _open_on_device(told: dict[str, Any]) -> Tensor:
    parts = [
        base64.b64decode(part) if binary else part for part, binary in zip(told["handle"], told["bytes"], strict=True)
    ]
    unshare: Any = torch.UntypedStorage._new_shared_cuda
    parts[0] = torch.cuda.current_device()  # the same physical device, under the number that it has here
    memory: Tensor = torch.empty(0, dtype=torch.uint8, device="cuda")
    return memory.set_(unshare(*parts), 0, torch.Size([int(told["size"])]), (1,))
