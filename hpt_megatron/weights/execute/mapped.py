"""Tensors that lie in files, as views of the files: no copy is made, and the pages belong to the file, not to us.

Example:
    with Mapped() as files:
        files.tensor(path, start, Info("BF16", (2, 3)))
"""

import mmap
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.utils import _create_file_view

from hpt_megatron.weights.safetensors_file import Info

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"F8_E4M3": torch.float8_e4m3fn, "I8": torch.int8, "U8": torch.uint8, "I32": torch.int32, "I64": torch.int64}
CODES = {dtype: code for code, dtype in DTYPES.items()}


class Mapped:
    """Files that are open for reading; each is mapped when it is first asked for."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}

    def __enter__(self) -> "Mapped":
        return self

    def __exit__(self, *_error: object) -> None:
        self._maps.clear()  # a map is closed with the last view of it

    def tensor(self, path: Path, start: int, info: Info) -> Tensor:
        """What lies in the file from a byte on; not to be written to."""
        if not info.elements:
            return torch.empty(info.shape, dtype=DTYPES[info.dtype])
        if path not in self._maps:
            with path.open("rb") as file:
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it cannot be written to
            flat = torch.frombuffer(self._maps[path], dtype=DTYPES[info.dtype], count=info.elements, offset=start)
        return flat.view(info.shape)


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor; of one that lies in one piece no copy is made."""
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape and dtype are the same bit for bit, numbers that are none included."""
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))


def stored_tensor(path: Path, start: int, length: int, files: Mapped) -> Tensor:
    """What `torch.save` put somewhere into a file: a view of it, where it lies there in one piece."""
    with path.open("rb") as file:
        view: Any = _create_file_view(file, start, length)
        shape: Tensor = torch.load(view, map_location="meta", weights_only=True)
        at = getattr(shape.untyped_storage(), "_checkpoint_offset", None)
        plain = shape.is_contiguous() and shape.untyped_storage().nbytes() == shape.nbytes and shape.dtype in CODES
        if at is None or not plain:
            view.seek(0)
            loaded: Tensor = torch.load(view, map_location="cpu", weights_only=True)
            return loaded
    return files.tensor(path, start + at, Info(CODES[shape.dtype], tuple(shape.shape)))
