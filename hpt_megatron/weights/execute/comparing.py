"""Two checkpoints tensor by tensor, and one checkpoint in numbers: `hpt convert verify` and `inspect`.

Either may be a folder of the hub or a distributed checkpoint; tensors meet under the hub's older names.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpt_megatron.errors import UserError
from hpt_megatron.weights.execute.hub import HubFolder
from hpt_megatron.weights.execute.mapped import raw, same_bytes
from hpt_megatron.weights.execute.megatron import COMPLETE, DESCRIPTION, MegatronFolder
from hpt_megatron.weights.execute.target import digest
from hpt_megatron.weights.progress import Progress
from hpt_megatron.weights.survey import refuse
from hpt_megatron.weights.table import LM_HEAD, VISUAL

SLICE = 2**24
EMBEDDINGS = ("model.embed_tokens.weight", LM_HEAD)
Folder = HubFolder | MegatronFolder


@dataclass(frozen=True)
class Difference:
    """One tensor that is not the same; `relative` is the largest difference over the largest number in it."""

    name: str
    what: str
    absolute: float = 0.0
    relative: float = 0.0


def open_folder(path: str | Path, like: str | Path | None = None) -> Folder:
    """Whichever of the two formats a folder holds."""
    path = Path(path)
    if not path.is_dir():
        raise UserError("is no folder", where=str(path), mend="give a checkpoint of either format")
    if (path / COMPLETE).is_file() or (path / DESCRIPTION).is_file():
        return MegatronFolder(path, like)
    return HubFolder(path)


def verify(one: str | Path, other: str | Path, tolerance: float | None = None) -> tuple[int, list[Difference]]:
    """How many tensors were compared, and all that differ: bit for bit, or beyond a relative tolerance."""
    ours, theirs = _both(one, other)
    for folder in (ours, theirs):
        refuse(folder.path, folder.problems)
    tied = all(folder.model is not None and folder.model.tie_word_embeddings for folder in (ours, theirs))
    names = [name for name in (ours.infos | theirs.infos) if not (tied and name == LM_HEAD)]
    found: list[Difference] = []
    total = sum(ours.infos[name].nbytes for name in names if name in ours.infos)
    with Progress("verify", total) as progress:
        for name in names:
            found += _difference(name, ours, theirs, tolerance)
            progress.add(ours.infos[name].nbytes if name in ours.infos else 0)
    return len(names), found


def _difference(name: str, ours: Folder, theirs: Folder, tolerance: float | None) -> list[Difference]:
    if name not in ours.infos or name not in theirs.infos:
        return [Difference(name, f"only in {(ours if name in ours.infos else theirs).path}")]
    a, b = ours.infos[name], theirs.infos[name]
    if a.shape != b.shape or (a.dtype != b.dtype and tolerance is None):
        return [Difference(name, f"{a} and {b}")]
    return _apart(name, ours.tensor(name), theirs.tensor(name), tolerance)


def _both(one: str | Path, other: str | Path) -> tuple[Folder, Folder]:
    """A checkpoint without a configuration is read by the other's."""
    ours, theirs = open_folder(one), open_folder(other)
    if ours.config is None and theirs.config is None:
        mend = "compare them with a folder of the hub, or export one of them with --like"
        raise UserError("neither has a configuration in it", where=f"{one}, {other}", mend=mend)
    if ours.config is None:
        ours = open_folder(one, theirs.config)
    if theirs.config is None:
        theirs = open_folder(other, ours.config)
    return ours, theirs


def _apart(name: str, ours: Tensor, theirs: Tensor, tolerance: float | None) -> list[Difference]:
    if ours.dtype == theirs.dtype and same_bytes(ours, theirs):
        return []
    absolute = largest = 0.0
    differing = 0
    for a, b in zip(_slices(ours), _slices(theirs), strict=True):
        differing += int((a != b).sum())
        wide, other = a.double(), b.double()
        absolute = max(absolute, _number((wide - other).abs().max()))
        largest = max(largest, _number(wide.abs().max()), _number(other.abs().max()))
    relative = absolute / largest if largest else 0.0
    if tolerance is not None and relative <= tolerance:
        return []
    return [Difference(name, f"{differing:,} of {ours.numel():,} numbers", absolute, relative)]


def _number(value: Tensor) -> float:
    """What is no number counts as endlessly far."""
    return float(value) if bool(torch.isfinite(value)) else float("inf")


def _slices(tensor: Tensor) -> Iterator[Tensor]:
    yield from torch.split(tensor.reshape(-1), SLICE)


def inspect(path: str | Path, quick: bool = False) -> dict[str, Any]:
    """What a checkpoint holds. Without a configuration, parameters stand under the trainer's names."""
    folder = open_folder(path)
    by_hub_name = folder.model is not None
    infos = folder.infos if by_hub_name or isinstance(folder, HubFolder) else folder.parameters
    read = folder.tensor if by_hub_name or isinstance(folder, HubFolder) else folder.parameter
    tensors: dict[str, dict[str, Any]] = {
        name: {"dtype": info.dtype, "shape": list(info.shape)} for name, info in infos.items()
    }
    total = sum(info.nbytes for info in infos.values())
    told: dict[str, Any] = {
        "path": str(path),
        "format": "safetensors" if folder.kind == "hf" else "torch_dist",
        "family": folder.model.family if folder.model is not None else None,
        "names": "hub" if by_hub_name or folder.kind == "hf" else "trainer",
        "layout": folder.layout(),
        "bytes": total,
        "parameters": parts({name: info.elements for name, info in infos.items()}),
        "problems": folder.problems,
        "digest": None,
    }
    if isinstance(folder, MegatronFolder):
        told |= {"sharding": folder.content.get("sharding"), "optimizer": folder.has_optimizer}
    if not quick and not folder.problems:
        with Progress("digest", total) as progress:
            for name, info in infos.items():
                tensors[name]["sha256"] = hashlib.sha256(raw(read(name))).hexdigest()
                progress.add(info.nbytes)
        told["digest"] = digest(tensors)
    return {**told, "tensors": tensors}


def parts(elements: dict[str, int]) -> dict[str, int]:
    """Parameters of the language model, of its embeddings among them, and of the tower."""
    vision = sum(size for name, size in elements.items() if name.startswith(VISUAL))
    embeddings = sum(
        size for name, size in elements.items() if name in EMBEDDINGS or "embedding" in name or "output_layer" in name
    )
    total = sum(elements.values())
    return {"language": total - vision, "embeddings": embeddings, "vision": vision, "total": total}
