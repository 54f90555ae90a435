"""A distributed checkpoint as a conversion reads it: whole parameters, put together from what the ranks wrote.

Neither a model nor a process group is needed: the description says where each piece of a parameter lies. Pieces are
viewed in their files; only a parameter of several pieces is copied, into one tensor of its size. Optimizer and random
states are not looked at.

Invariants
    1. Nothing in the files is run: `.metadata` goes through `description.py`, everything else through `weights_only`.
    2. Every element of a parameter is read from exactly one piece.

Example:
    folder = MegatronFolder("runs/step-100")
    folder.parameter("decoder.layers.0.mlp.linear_fc1.weight")      by the trainer's name
    folder.tensor("model.layers.0.mlp.gate_proj.weight")            by the hub's, where the model is known
"""

import json
import pickle
from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from hpt_megatron.config.checkpoint import model_of
from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.shapes import shapes
from hpt_megatron.errors import UserError
from hpt_megatron.weights.carried import CARRIED
from hpt_megatron.weights.entry import Entry, join
from hpt_megatron.weights.execute.checksums import checksum
from hpt_megatron.weights.execute.description import MetadataReader
from hpt_megatron.weights.execute.mapped import CODES, Mapped, stored_tensor
from hpt_megatron.weights.execute.target import MANIFEST
from hpt_megatron.weights.safetensors_file import Info
from hpt_megatron.weights.survey import CONVERTED, briefly, grouped
from hpt_megatron.weights.table import EMBEDDING, HEAD, OUTPUT, VISUAL, Table

DESCRIPTION, COMPLETE = ".metadata", "metadata.json"
# Norms are stored as parts of the layer behind them, where the fused kernels have them.
STORED = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}
OTHERS = ("optimizer.", "rng.", "chained_")


def stored_name(name: str) -> str:
    """A parameter's name in the files."""
    for ours, theirs in STORED.items():
        if name.startswith("decoder.layers.") and name.endswith(f".{ours}"):
            return name.removesuffix(ours) + theirs
    return name


def overlap(chunks: Sequence[Any]) -> bool:
    """Whether two pieces share an element."""
    for one, other in combinations(chunks, 2):
        sides = zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
        if all(a < b + m and b < a + n for a, n, b, m in sides):
            return True
    return False


class MegatronFolder:
    """What a folder holds; `problems` is everything that speaks against converting it."""

    kind = "checkpoint"

    def __init__(self, path: str | Path, like: str | Path | None = None) -> None:
        self.path, self.files = Path(path), Mapped()
        self.problems: list[str] = []
        self.model: ModelConfig | None = None
        self.dtype: torch.dtype | None = None  # what parameters become as they are read; None: what they are
        self._last: tuple[str, list[Tensor]] = ("", [])
        carried = self.path / CARRIED
        self.config: Path | None = Path(like) if like is not None else carried if carried.is_dir() else None
        self._describe()
        if self.config is not None:
            try:
                self.model = model_of(self.config)
            except UserError as error:
                self.problems.append(briefly(error))
            else:
                self.problems += self._contradictions(self.model)

    def _describe(self) -> None:
        if not (self.path / COMPLETE).is_file() or not (self.path / DESCRIPTION).is_file():
            mend = f"name a folder that holds `{COMPLETE}` and `{DESCRIPTION}`"
            raise UserError("not a complete checkpoint", where=str(self.path), mend=mend)
        try:
            self._read_description()
        except UserError as error:
            raise UserError(error.what, where=str(self.path / DESCRIPTION), mend=error.mend) from error
        except Exception as error:  # a damaged pickle can end in any of them, memory that is not there among them
            what = "its description is damaged, or holds more than plain values"
            raise UserError(what, where=str(self.path), mend="copy it again") from error

    def _read_description(self) -> None:
        self.description = MetadataReader(self.path).read_metadata()
        common = torch.load(self.path / "common.pt", weights_only=True)
        self.content: dict[str, Any] = dict(common.get("content_metadata") or {})
        json.loads((self.path / COMPLETE).read_text(encoding="utf-8"))
        self._pieces_at_odds()

    @cached_property
    def parameters(self) -> dict[str, Info]:
        """What is stored of the model, by its name in the files, vocabulary padded."""
        return {
            name: Info(CODES.get(entry.properties.dtype, str(entry.properties.dtype)), tuple(entry.size))
            for name, entry in self._stored.items()
        }

    @cached_property
    def _stored(self) -> dict[str, TensorStorageMetadata]:
        return {
            name: entry
            for name, entry in self.description.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata) and not name.startswith(OTHERS)
        }

    def _pieces_at_odds(self) -> None:
        """Pieces that are missing, cut off, or do not make up their parameter."""
        sizes = {
            file: (self.path / file).stat().st_size if (self.path / file).is_file() else -1 for file in self._used()
        }
        self.problems += [f"lacks the file {file}" for file, size in sorted(sizes.items()) if size < 0]
        found = []
        for name, info in self.parameters.items():
            chunks = self._stored[name].chunks
            if sum(chunk.sizes.numel() for chunk in chunks) != info.elements or overlap(chunks):
                found.append(f"the pieces of {name} do not make up {list(info.shape)}")
            for chunk in chunks:
                at = self._at(name, chunk)
                if at is None:
                    found.append(f"lacks a piece of {name}")
                elif 0 <= sizes[at.relative_path] < at.offset + at.length:
                    found.append(f"{at.relative_path} is truncated: {name} lies beyond its end")
        self.problems += grouped(found)

    def _used(self) -> set[str]:
        used = set()
        for name in self.parameters:
            for chunk in self._stored[name].chunks:
                at = self._at(name, chunk)
                if at is not None:
                    if Path(at.relative_path).name != at.relative_path:
                        raise UserError(f"names a file outside the folder: {at.relative_path!r}", where=str(self.path))
                    used.add(at.relative_path)
        return used

    @cached_property
    def promised(self) -> dict[str, str]:
        """The checksum of each of the hub's tensors, as the manifest of an import has it."""
        try:
            tensors = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))["tensors"]
            return {name: str(one["sha256"]) for name, one in tensors.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError("is no manifest", where=str(self.path / MANIFEST), mend="copy it again") from error

    def _at(self, name: str, chunk: Any) -> Any:
        return self.description.storage_data.get(MetadataIndex(name, chunk.offsets))

    @cached_property
    def entries(self) -> list[Entry]:
        """The table's entries of the model, its tower's too."""
        assert self.model is not None
        tower = [name for name in shapes(self.model) if name.startswith(VISUAL)]
        # The checkpoint may be tied where the model is not, and the other way round; `tensor` makes up for it.
        return Table.of(self.model, 1, 1).entries(tower)

    def _contradictions(self, model: ModelConfig) -> list[str]:
        found, expected, known = [], shapes(model), set()
        for entry in self.entries:
            name = stored_name(entry.trainer)
            known.add(name)
            if name == OUTPUT and name not in self.parameters and EMBEDDING in self.parameters:
                continue  # untied on the way out
            if name not in self.parameters:
                found.append(f"lacks {name}")
                continue
            found += self._odd(name, entry, expected)
        about = self.content.get("about") or {}
        if about.get("head", "tokens") == "scalar":
            found.append("its head gives one number, not tokens: it is no model of the hub")
        if about.get("vocabulary", model.vocab_size) not in (0, model.vocab_size):
            found.append(f"it has a vocabulary of {about['vocabulary']} where config.json has {model.vocab_size}")
        strangers = set(self.parameters) - known - ({OUTPUT} if model.tie_word_embeddings else set())
        strangers = {name for name in strangers if not name.startswith(HEAD)}  # a critic's, on the policy's trunk
        found += [f"has {name}, unknown here" for name in sorted(strangers)]
        if not found and not self.problems:
            found += self._padding_at_odds(model)
            tied = model.tie_word_embeddings and OUTPUT in self.parameters
            if tied and not self._same_heads(model):
                found.append(f"config.json ties the embeddings, but {OUTPUT} is not {EMBEDDING}")
        return grouped(found)

    def _odd(self, name: str, entry: Entry, expected: dict[str, tuple[int, ...]]) -> list[str]:
        info = self.parameters[name]
        if info.dtype not in CONVERTED:
            return [f"{name} is stored as {info.dtype}; {', '.join(CONVERTED)} are converted"]
        parts = [expected[each] for each in entry.checkpoint]
        whole = (sum(part[0] for part in parts), *parts[0][1:])
        fits = info.shape == whole
        if entry.kind == "vocabulary":
            fits = info.shape[1:] == whole[1:] and info.shape[0] >= whole[0]
        return [] if fits else [f"{name} is {list(info.shape)} where config.json makes it {list(whole)}"]

    def _padding_at_odds(self, model: ModelConfig) -> list[str]:
        """Rows beyond the vocabulary have to be padding, or a larger vocabulary would be cut off without a word."""
        found = []
        for name in (EMBEDDING, OUTPUT):
            rows = self.parameters[name].shape[0] if name in self.parameters else 0
            if rows > model.vocab_size and bool(self.parameter(name)[model.vocab_size :].any()):
                found.append(f"{name} has {rows} rows that are no padding where config.json has {model.vocab_size}")
        return found

    def _same_heads(self, model: ModelConfig) -> bool:
        rows = slice(0, model.vocab_size)
        return checksum(self.parameter(EMBEDDING)[rows]) == checksum(self.parameter(OUTPUT)[rows])  # one at a time

    @cached_property
    def infos(self) -> dict[str, Info]:
        """What the model's checkpoint on the hub would hold, by its names; needs `model`."""
        found: dict[str, Info] = {}
        if self.model is None:
            return found
        expected = shapes(self.model)
        for entry in self.entries:
            stored = stored_name(entry.trainer)
            source = EMBEDDING if stored == OUTPUT and OUTPUT not in self.parameters else stored
            if source in self.parameters:
                found |= {name: Info(self.parameters[source].dtype, expected[name]) for name in entry.checkpoint}
        return found

    @cached_property
    def _entry_of(self) -> dict[str, Entry]:
        return {name: entry for entry in self.entries for name in entry.checkpoint}

    def tensor(self, name: str) -> Tensor:
        """A tensor as the hub has it; of one parameter after the other, they cost one reading each."""
        assert self.model is not None
        entry = self._entry_of[name]
        if self._last[0] != entry.trainer:
            stored = stored_name(entry.trainer)
            if stored == OUTPUT and OUTPUT not in self.parameters:
                stored = EMBEDDING
            self._last = ("", [])
            fusion = Table.of(self.model, 1, 1).fusion
            self._last = (entry.trainer, join(entry.kind, [self.parameter(stored)], fusion))
        return self._last[1][entry.checkpoint.index(name)]

    def parameter(self, name: str) -> Tensor:
        """A whole parameter by its name in the files."""
        info, dtype = self.parameters[name], self.dtype or self._stored[name].properties.dtype
        chunks = self._stored[name].chunks
        if len(chunks) == 1:
            return self._piece(name, chunks[0], info.dtype).to(dtype)
        whole = torch.empty(info.shape, dtype=dtype)
        for chunk in chunks:
            place = tuple(slice(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True))
            whole[place].copy_(self._piece(name, chunk, info.dtype))
        return whole

    def _piece(self, name: str, chunk: Any, dtype: str) -> Tensor:
        """What one rank wrote: a view of its file, where it lies there as it is."""
        at, info = self._at(name, chunk), Info(dtype, tuple(chunk.sizes))
        path = self.path / at.relative_path
        try:
            found = stored_tensor(path, at.offset, at.length, self.files)
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise UserError(f"a piece of {name} cannot be read", where=str(path), mend="copy it again") from error

        if tuple(found.shape) != info.shape or CODES.get(found.dtype) != dtype:
            raise UserError(f"holds {list(found.shape)} for a piece of {name} of {info}", where=str(path))
        return found

    @property
    def has_optimizer(self) -> bool:
        """Whether an optimizer's state lies beside the weights."""
        return any(name.startswith("optimizer.") for name in self.description.state_dict_metadata)

    def layout(self) -> dict[str, int]:
        """Under which layout it was saved; nothing for one that was imported."""
        return dict(self.content.get("layout") or {})
