"""ModelOpt's tensors in the layout that vLLM loads: the same numbers under vLLM's names, packed as it packs them.

    modelopt         as they are
    int-quantized    weight int8 [rows, columns], weight_scale [rows, 1]
    pack-quantized   weight_packed int32 [rows, columns / 8], weight_scale [rows, columns / 128], weight_shape

ModelOpt puts two 4-bit numbers of neighbouring rows into a byte, two's complement; vLLM takes eight neighbouring
columns in 32 bits, the first in the lowest, each 8 more than it is.

Invariants
    1. `dequantised` of what is written is ModelOpt's quantised weight, number for number.
    2. One tensor is in memory at a time.

Example:
    >>> packed = pack(torch.tensor([[-8, -7, -1, 0, 1, 2, 6, 7]], dtype=torch.int8))
    >>> hex(packed.item() & 0xFFFFFFFF), unpack(packed).tolist()
    ('0xfea98710', [[-8, -7, -1, 0, 1, 2, 6, 7]])
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from hpt_megatron.errors import HptError
from hpt_megatron.weights.execute.mapped import Mapped
from hpt_megatron.weights.quantise.formats import Layout
from hpt_megatron.weights.safetensors_file import Info
from hpt_megatron.weights.survey import survey

WEIGHT, SCALE, PACKED, SHAPE = "weight", "weight_scale", "weight_packed", "weight_shape"
FOR_RUN_TIME = ("input_scale", "pre_quant_scale")
"""Tensors of ModelOpt that none of the formats has: a folder with one of them would mean something else."""
INTEGERS = 8
"""In 32 bits."""


class Written:
    """What ModelOpt wrote, as vLLM reads it."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._found, self._layout, self._files = survey(folder), layout, Mapped()
        surplus = [name for name in self._found.infos if name.endswith(FOR_RUN_TIME)]
        if self._found.problems or surplus:
            what = "ModelOpt wrote something else than was expected"
            raise HptError(what, where=str(folder), mend="; ".join([*self._found.problems, *surplus][:3]))

    @cached_property
    def infos(self) -> dict[str, Info]:
        """Every tensor that is to be written."""
        made: dict[str, Info] = {}
        for name, info in self._found.infos.items():
            stem, kind = name.rpartition(".")[::2]
            if kind == WEIGHT and self._packs(name):
                rows, columns = 2 * info.shape[0], info.shape[1]
                made[f"{stem}.{PACKED}"] = Info("I32", (rows, columns // INTEGERS))
                made[f"{stem}.{SHAPE}"] = Info("I64", (2,))
            elif kind == SCALE and self._layout == "int-quantized":
                made[name] = Info(info.dtype, (*info.shape, 1))
            else:
                made[name] = info
        return made

    def _packs(self, name: str) -> bool:
        return self._layout == "pack-quantized" and self._found.infos[name].dtype == "U8"

    def tensor(self, name: str) -> Tensor:
        """One of them."""
        stem, kind = name.rpartition(".")[::2]
        if kind in (PACKED, SHAPE):
            signed = apart(self._read(f"{stem}.{WEIGHT}"))
            return pack(signed) if kind == PACKED else torch.tensor(signed.shape)
        return self._read(name).view(self.infos[name].shape)

    def _read(self, name: str) -> Tensor:
        path, _, start, _ = self._found.where[name]
        return self._files.tensor(path, start, self._found.infos[name])


def apart(pairs: Tensor) -> Tensor:
    """Two numbers of 4 bits from each byte: those of rows 2 n and 2 n + 1, from two's complement."""
    halves = torch.stack((pairs & 15, pairs >> 4), 1).flatten(0, 1).to(torch.int8)
    return torch.where(halves > 7, halves - 16, halves)


def pack(signed: Tensor) -> Tensor:
    """Numbers of -8 to 7, eight of a row in 32 bits."""
    grouped = (signed.to(torch.int64) + 8).view(len(signed), -1, INTEGERS)
    places = torch.arange(INTEGERS) * 4
    whole = (grouped << places).sum(-1)
    return torch.where(whole >= 2**31, whole - 2**32, whole).to(torch.int32)


def unpack(packed: Tensor) -> Tensor:
    """The other way round."""
    places = torch.arange(INTEGERS, dtype=torch.int32) * 4
    return (((packed[..., None] >> places) & 15) - 8).flatten(1).to(torch.int8)


def dequantised(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The weight, in float32, that a layer's tensors stand for."""
    stem = name.removesuffix(WEIGHT)
    scale = tensors[stem + SCALE].float()
    if stem + PACKED in tensors:
        whole = unpack(tensors[stem + PACKED]).float()
        return whole * scale.repeat_interleave(whole.shape[1] // scale.shape[1], 1)
    return tensors[name].float() * scale.view(-1, 1)
