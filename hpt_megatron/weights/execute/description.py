"""The description of a distributed checkpoint (`.metadata`), read without running what the file says.

It is a pickle. Here an unpickler reads it that knows only the classes such a file consists of; conversion and
megatron-core's own loading both go through it.
"""

import pickle
from enum import EnumType
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from hpt_megatron.errors import UserError

KNOWN = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.planner": {"SavePlan", "WriteItem", "WriteItemType", "TensorWriteData"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "collections": {"OrderedDict"},
}


def enum_member(owner: Any, name: str) -> Any:
    """What stands for `getattr` in a file: early releases of Python 3.11 write a member of an enum that way."""
    if isinstance(owner, EnumType) and name in owner.__members__:
        return owner[name]
    raise UserError(f"it asks for {name!r} of {owner!r}, which no checkpoint has a use for", where=".metadata")


class MetadataUnpickler(pickle.Unpickler):
    """Knows the classes of a checkpoint's description and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return enum_member
        if name not in KNOWN.get(module, ()):
            raise UserError(f"it names {module}.{name}, which no checkpoint has a use for", where=".metadata")
        return super().find_class(module, name)


class MetadataReader(FileSystemReader):
    """Torch's reader, reading the metadata once and with the unpickler above."""

    _read: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._read is None:
            with self.fs.create_stream(self._get_metadata_path(kwargs.get("rank")), "rb") as file:
                metadata: Metadata = MetadataUnpickler(file).load()
            metadata.storage_meta = metadata.storage_meta or StorageMeta()
            metadata.storage_meta.load_id = self.load_id
            self._read = metadata
        return self._read
