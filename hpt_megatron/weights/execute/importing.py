"""From a folder of the hub to a distributed checkpoint: `hpt convert import`.

Every parameter is written as one piece over the whole model, which megatron-core loads under any layout. Parameters
follow one another in files of about 1 GiB; torch's description of them comes last. The folder's configuration,
tokenizer and processor are stored beside them, under `hf/`, so that an export needs nothing else.

Invariants
    1. One parameter is in memory at a time: the views of its tensors, and what they are fused to.
    2. The vocabulary is stored as it is; loading pads it to what a layout needs.
    3. Nothing is forked, and no threads but those that count checksums are started.
"""

import json
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from hpt_megatron.config.shapes import shapes
from hpt_megatron.layout.asked import read_layout
from hpt_megatron.weights.asked_layout import SIZES, illegal
from hpt_megatron.weights.carried import CARRIED, WEIGHTS_ALONE, carry, state_of
from hpt_megatron.weights.entry import cut
from hpt_megatron.weights.execute.checksums import Checksums, Place
from hpt_megatron.weights.execute.hub import HubFolder
from hpt_megatron.weights.execute.mapped import Mapped, same_bytes, stored_tensor
from hpt_megatron.weights.execute.megatron import COMPLETE, DESCRIPTION, stored_name
from hpt_megatron.weights.execute.target import Piece, Target, manifest_of
from hpt_megatron.weights.progress import Progress
from hpt_megatron.weights.survey import ANOTHER_MODEL, refuse
from hpt_megatron.weights.table import VISUAL, Table

PART = 2**30


def import_folder(
    source: str | Path, out: str | Path, resume: bool = False, layout: str | None = None
) -> dict[str, Any]:
    """Writes the checkpoint; answers its manifest. A layout is held against the model, and changes no file."""
    sizes = read_layout(layout, SIZES) if layout is not None else {}
    hub = HubFolder(source)
    unfit = illegal(hub.model, sizes) if sizes and hub.model is not None else []
    refuse(hub.path, hub.problems + unfit, ANOTHER_MODEL if hub.problems else "sizes that this model can be cut into")
    assert hub.model is not None
    table = Table.of(hub.model, 1, 1)
    entries = table.entries([name for name in shapes(hub.model) if name.startswith(VISUAL)])
    infos = {name: hub.infos[name] for entry in entries for name in entry.checkpoint}
    total = sum(info.nbytes for info in infos.values())
    plan = {"what": "import", "source": state_of(hub.path)}
    with Target(out, plan, total, resume) as target, Progress("import", total) as progress:
        writer = Writer(target)
        with Checksums(target) as sums:
            for entry in entries:
                tensors = {name: hub.tensor(name) for name in entry.checkpoint}
                name, whole = stored_name(entry.trainer), cut(entry.kind, list(tensors.values()), 0, 1, table.fusion)
                place, fresh = writer.write(name, whole)
                if fresh:
                    sums.add(place, tensors)
                progress.add(whole.nbytes, kept=not fresh)
                del whole  # before the next one is fused
        carry(hub.path, target.beside / CARRIED)
        writer.finish({"head": "tokens", "vocabulary": hub.model.vocab_size, "frozen": []})
        about = {"format": "torch_dist"} | ({"layout": sizes} if sizes else {})
        manifest = manifest_of(target, about, infos)
        target.finish(manifest)
    return manifest


class Writer:
    """Writes parameters into files one after the other, and in the end what a reader needs to find them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._stored: dict[str, TensorStorageMetadata] = {}
        self._where: dict[MetadataIndex, _StorageInfo] = {}
        self._file: BinaryIO | None = None
        self._part = self._at = 0

    def write(self, name: str, tensor: Tensor) -> tuple[Place, bool]:
        """Writes a parameter, unless an earlier run did; answers its place, and whether it is new there."""
        if self._at and self._at + tensor.nbytes > PART:
            self._close()
            self._part, self._at = self._part + 1, 0
        file, start = f"__0_{self._part}.distcp", self._at
        kept = self.target.kept(name)
        fresh = kept is None or (kept.file, kept.start) != (file, start) or not self._is(kept, tensor)
        if fresh:
            if kept is not None:
                self.target.forget(name)
            self._at = self._save(file, tensor)
        elif kept is not None:
            self._at = kept.end
        offsets = torch.Size([0] * tensor.dim())
        whole = ChunkStorageMetadata(offsets, tensor.shape)
        self._stored[name] = TensorStorageMetadata(TensorProperties(dtype=tensor.dtype), tensor.shape, [whole])
        self._where[MetadataIndex(name, offsets)] = _StorageInfo(file, start, self._at - start)
        return (name, file, start, self._at), fresh

    def _is(self, kept: Piece, tensor: Tensor) -> bool:
        """Whether the disk has what would be written."""
        try:
            found = stored_tensor(self.target.beside / kept.file, kept.start, kept.end - kept.start, Mapped())
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError):
            return False
        return found.shape == tensor.shape and found.dtype == tensor.dtype and same_bytes(found, tensor)

    def _save(self, file: str, tensor: Tensor) -> int:
        """Appends the tensor; answers where the file ends then."""
        if self._file is None:
            path = self.target.beside / file
            path.touch()
            self._file = path.open("r+b")
            self._file.seek(self._at)
            self._file.truncate()
        if tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensor = tensor.clone()  # torch writes what lies behind a view, all of it
        kept = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(False)  # nobody reads them, and the manifest has better ones
        try:
            torch.save(tensor, self._file)
        except RuntimeError as error:  # torch's writer gives up while the disk's own words are on their way
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
        finally:
            torch.serialization.set_crc32_options(kept)
        self._file.flush()
        return self._file.tell()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self, about: dict[str, Any]) -> None:
        """Writes the descriptions; `metadata.json` comes last, as a folder without it is no checkpoint."""
        self._close()
        beside = self.target.beside
        description = Metadata(dict(self._stored), None, self._where, StorageMeta(), "1.0.0")
        (beside / DESCRIPTION).write_bytes(pickle.dumps(description))
        content = {"sharding": WEIGHTS_ALONE, "layout": {}, "about": about}
        torch.save({"extra": "{}", "content_metadata": content}, beside / "common.pt")
        told = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
        told |= {"common_backend": "torch", "common_backend_version": 1}
        (beside / COMPLETE).write_text(json.dumps(told), encoding="utf-8")
