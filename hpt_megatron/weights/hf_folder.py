"""Reads a checkpoint in the Hugging Face layout, one tensor at a time, whichever way its files spell the names.

Only safetensors is read: a format that holds numbers and nothing to run.

Example:
    folder = HfFolder("/data/Qwen2.5-VL-7B-Instruct")
    folder.tensor("model.layers.0.mlp.up_proj.weight")
"""

import json
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpt_megatron.errors import UserError
from hpt_megatron.weights.table import canonical

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


class HfFolder:
    """The tensors of a folder by canonical name; files are opened once, when they are first needed."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._open: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "HfFolder":
        return self

    def __exit__(self, *_error: object) -> None:
        self._open.clear()
        self._stack.close()

    @cached_property
    def where(self) -> dict[str, tuple[str, str]]:
        """Canonical name to file and the name inside it."""
        index = self.path / INDEX
        if index.is_file():
            files = _read_index(index)
        elif (self.path / SINGLE).is_file():
            files = dict.fromkeys(self._file(SINGLE).keys(), SINGLE)
        else:
            mend = "name a folder in the Hugging Face layout (`hpt tiny OUT` writes one)"
            raise UserError("holds no safetensors", where=str(self.path), mend=mend)
        outside = [name for name in files.values() if Path(name).name != name or name in ("", "..")]
        if outside:
            what = f"its index names a file outside the folder: {outside[0]!r}"
            raise UserError(what, where=str(self.path), mend="copy it again")
        found: dict[str, tuple[str, str]] = {}
        for name, file in files.items():
            other = found.setdefault(canonical(name), (file, name))[1]
            if other != name:
                what = f"holds one tensor twice, as {other} and as {name}"
                raise UserError(what, where=str(self.path), mend="keep one of them")
        return found

    def _file(self, name: str) -> Any:
        if name not in self._open:
            try:
                self._open[name] = self._stack.enter_context(safe_open(self.path / name, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"cannot be read: {error}", where=str(self.path / name), mend="copy it again"
                ) from error
        return self._open[name]

    def names(self) -> list[str]:
        """All canonical names."""
        return list(self.where)

    def tensor(self, name: str) -> Tensor:
        """One whole tensor."""
        if name not in self.where:
            raise UserError(
                f"lacks the tensor {name}", where=str(self.path), mend="is it the checkpoint of this model?"
            )
        file, inside = self.where[name]
        try:
            found: Tensor = self._file(file).get_tensor(inside)
        except SafetensorError as error:
            what = f"its index promises {inside}, which cannot be read: {error}"
            raise UserError(what, where=str(self.path / file), mend="copy it again") from error
        return found


def _read_index(index: Path) -> dict[str, str]:
    """Name to file, as the index of a checkpoint in several files says."""
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(file, str) for file in files.values()):
            raise TypeError("files are not named by strings")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError("is no index of tensors", where=str(index), mend="copy it again") from error
    return dict(files)
