"""A TensorBoard event file, written without TensorBoard.

Decision: scalars need three small messages of a format that has not changed in ten years. The package that brings them
brings a web server, gRPC and a data server along; here they are encoded by hand, and a test reads them with the
package. Whoever wants to look installs it: `tensorboard --logdir RUN/tensorboard`.

    file      records; a record is: length (8 bytes), its checksum, the event, its checksum
    event     wall_time 1, step 2, and one of: file_version 3, summary 5, session_log 7
    summary   values 1: tag 1, simple_value 2                                       (numbers of fields)

Invariants
    1. A file begins with its version and a session that starts at `first`: TensorBoard leaves out what other files of
       the folder say of that step and of later ones.
    2. A step is one record, written at once; a record torn by the end of its writer fails its checksum.

Example: TensorBoardFile(Path("RUN/tensorboard"), first=1).write(1, {"actor/loss": 0.25})
"""

import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from hpt_megatron.observe.trackers.place import Place

FOLDER, VERSION, START = "tensorboard", b"brain.Event:2", 1
_POLYNOMIAL, _MASK = 0x82F63B78, 0xA282EAD8


def _table() -> list[int]:
    entries = []
    for byte in range(256):
        rest = byte
        for _ in range(8):
            rest = (rest >> 1) ^ (_POLYNOMIAL if rest & 1 else 0)
        entries.append(rest)
    return entries


TABLE = _table()


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    rest = 0xFFFFFFFF
    for byte in data:
        rest = TABLE[(rest ^ byte) & 0xFF] ^ (rest >> 8)
    return rest ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    """The checksum as the format stores it."""
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF)


def record(event: bytes) -> bytes:
    """An event as it stands in the file."""
    length = struct.pack("<Q", len(event))
    return length + masked(length) + event + masked(event)


def varint(number: int) -> bytes:
    """A whole number in groups of seven bits, the lowest first.

    >>> varint(300)
    b'\\xac\\x02'
    """
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def event(step: int, content: bytes) -> bytes:
    """An event of now."""
    return b"\x09" + struct.pack("<d", time.time()) + b"\x10" + varint(step) + content


def summary(numbers: Mapping[str, float]) -> bytes:
    """The field of an event that holds scalars."""
    values = [field(1, field(1, name.encode()) + b"\x15" + single(number)) for name, number in numbers.items()]
    return field(5, b"".join(values))


def single(number: float) -> bytes:
    """Single precision; what is too large for it is infinite."""
    try:
        return struct.pack("<f", number)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, number))


class TensorBoardFile:
    """See the module."""

    def __init__(self, folder: Path, first: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}.{os.getpid()}"
        self.file = (folder / name).open("xb", buffering=0)
        self.file.write(record(event(0, field(3, VERSION))))
        self.file.write(record(event(first, field(7, b"\x08" + varint(START)))))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step."""
        self.file.write(record(event(step, summary(numbers))))

    def close(self) -> None:
        """Nothing is held back, so nothing is left to write."""
        self.file.close()


def open_tensorboard(place: Place) -> TensorBoardFile:
    """The file of an attempt; its name begins with the time, as those who read them in order expect."""
    return TensorBoardFile(place.folder / FOLDER, place.first)
