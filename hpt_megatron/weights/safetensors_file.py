"""The bytes around the numbers of a safetensors file: reads its header with suspicion, and lays one out for writing.

    8 bytes, the header's length | the header, JSON: dtype, shape and place by name | the numbers, tensor after tensor

Neither torch nor numpy takes part. Reading a header says for every tensor what a loader would find, without loading.

Invariants
    1. A header that is accepted covers the file's numbers exactly: no hole, no overlap, nothing missing at the end.
    2. A file that was laid out here is accepted by the reader here and by the safetensors library, byte for byte.

Example:
    >>> header, places = lay_out([("a", Info("BF16", (2, 3))), ("b", Info("BF16", ()))])
    >>> len(header) % 8, places
    (0, {'a': (0, 12), 'b': (12, 14)})
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.errors import UserError

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
SIZES |= {"F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8}
LONGEST_HEADER = 100_000_000  # the library's own limit


@dataclass(frozen=True)
class Info:
    """What a tensor is: the dtype by its name in these files, and the shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes."""
        return self.elements * SIZES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def read_header(path: Path) -> tuple[dict[str, Info], dict[str, tuple[int, int]]]:
    """Every tensor of a file, and from which byte of the file to which it lies."""
    mend = "copy it again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LONGEST_HEADER):
                raise UserError(f"is truncated or no safetensors file ({size} bytes)", where=str(path), mend=mend)
            header = json.loads(file.read(length))
        infos = {name: _info(entry) for name, entry in header.items() if name != "__metadata__"}
        places = {name: _place(header[name], 8 + length) for name in infos}
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path), mend=mend) from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError("its header is damaged", where=str(path), mend=mend) from error
    at = 8 + length
    for name, (start, end) in sorted(places.items(), key=lambda item: item[1]):
        if start != at or end - start != infos[name].nbytes:
            what = f"its header puts {name} ({infos[name]}) where it cannot be"
            raise UserError(what, where=str(path), mend=mend)
        at = end
    if at != size:
        what = f"has {size:,} bytes where its header promises {at:,}"
        raise UserError(what, where=str(path), mend=mend)
    return infos, places


def _info(entry: dict[str, Any]) -> Info:
    shape = tuple(entry["shape"])
    if entry["dtype"] not in SIZES or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("no such dtype or shape")
    return Info(entry["dtype"], shape)


def _place(entry: dict[str, Any], start: int) -> tuple[int, int]:
    first, last = entry["data_offsets"]
    return start + int(first), start + int(last)


def lay_out(tensors: Iterable[tuple[str, Info]]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The beginning of a file, and where each tensor's bytes go after it, counted from its end.

    The order is the given one, but for wider dtypes first, so that every tensor lies at a multiple of its own.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    places: dict[str, tuple[int, int]] = {}
    at = 0
    for name, info in sorted(tensors, key=lambda item: -SIZES[item[1].dtype]):
        places[name] = (at, at + info.nbytes)
        header[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": list(places[name])}
        at += info.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places
