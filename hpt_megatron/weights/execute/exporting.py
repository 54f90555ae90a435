"""From a distributed checkpoint to a folder of the hub: `hpt convert export`.

Safetensors in shards of at most 5 GB with an index, under the older names, and what lies in the checkpoint's `hf/` (or
in the folder given as `like`) beside them. The optimizer's state is not read, and not needed.

Invariants
    1. The layout of every file is known before its first number is written, so tensors are streamed into place.
    2. Padding of the vocabulary is left out; whether the head is a tensor of its own is what `config.json` says.
    3. Import and then export gives the tensors that were imported, bit for bit; the import's manifest is held against
       what is written, and a difference keeps the folder from its name.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from torch import Tensor

from hpt_megatron.errors import UserError
from hpt_megatron.weights.carried import CONFIG, carry, state_of, with_dtype
from hpt_megatron.weights.execute.checksums import Checksums
from hpt_megatron.weights.execute.mapped import DTYPES, raw
from hpt_megatron.weights.execute.megatron import MegatronFolder
from hpt_megatron.weights.execute.target import Target, manifest_of
from hpt_megatron.weights.hf_folder import INDEX, SINGLE
from hpt_megatron.weights.progress import Progress
from hpt_megatron.weights.safetensors_file import Info, lay_out
from hpt_megatron.weights.survey import grouped, refuse

SHARD = 5 * 10**9
SLICE = 2**26
CODES = {"bf16": "BF16", "fp32": "F32"}


class Source(Protocol):
    """Where tensors come from, by the names that they get."""

    def tensor(self, name: str) -> Tensor:
        """One of them."""


def export_checkpoint(
    source: str | Path, out: str | Path, dtype: str | None = None, like: str | Path | None = None, resume: bool = False
) -> dict[str, Any]:
    """Writes the folder; answers its manifest."""
    folder = readable(source, like)
    assert folder.config is not None
    folder.dtype = DTYPES[CODES[dtype]] if dtype else None
    infos = {name: Info(CODES[dtype] if dtype else info.dtype, info.shape) for name, info in folder.infos.items()}
    total = sum(info.nbytes for info in infos.values())
    plan = {"what": "export", "source": state_of(folder.path), "like": state_of(folder.config), "dtype": dtype}
    with Target(out, plan, total, resume) as target, Progress("export", total) as progress:
        write_tensors(folder, infos, target, progress)
        carry(folder.config, target.beside)
        kinds = {info.dtype for info in infos.values()}
        if len(kinds) == 1:
            with_dtype(target.beside / CONFIG, kinds.pop())
        manifest = manifest_of(target, {"format": "safetensors"}, infos)
        if dtype is None:
            refuse(folder.path, changed(folder.promised, manifest["tensors"]), "import it again")
        target.finish(manifest)
    return manifest


def readable(source: str | Path, like: str | Path | None) -> MegatronFolder:
    """A checkpoint that can be exported, or everything that speaks against it."""
    folder = MegatronFolder(source, like)
    if folder.config is None and not folder.problems:
        mend = "name a folder of the same model with --like"
        raise UserError("has no configuration, tokenizer and processor in it", where=str(folder.path), mend=mend)
    refuse(folder.path, folder.problems)
    return folder


def write_tensors(source: Source, infos: Mapping[str, Info], target: Target, progress: Progress) -> None:
    """Streams tensors into shards, and writes their index where there are several."""
    files = shards(infos)
    with Checksums(target) as sums:
        for file, names in files.items():
            write_shard(source, target, (file, {name: infos[name] for name in names}), progress, sums)
    if len(files) > 1:
        where = {name: file for file, names in files.items() for name in names}
        total = sum(info.nbytes for info in infos.values())
        table = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (target.beside / INDEX).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def changed(promised: Mapping[str, str], tensors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tensors that are no longer what was imported."""
    found = [name for name, one in tensors.items() if promised.get(name, one["sha256"]) != one["sha256"]]
    return grouped(f"{name} has changed since it was imported" for name in found)


def shards(infos: Mapping[str, Info], largest: int = SHARD) -> dict[str, list[str]]:
    """File to tensors, in their order; a tensor that is larger than a shard has one for itself."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, info in infos.items():
        if groups[-1] and size + info.nbytes > largest:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += info.nbytes
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{at + 1:05d}-of-{len(groups):05d}.safetensors": group for at, group in enumerate(groups)}


def write_shard(
    source: Source,
    target: Target,
    shard: tuple[str, Mapping[str, Info]],
    progress: Progress,
    sums: Checksums,
) -> None:
    """Writes the tensors of one file that an earlier run has not left there."""
    name, infos = shard
    header, places = lay_out(infos.items())
    path = target.beside / name
    path.touch()
    with path.open("r+b") as file:
        file.write(header)
        for each, (start, end) in places.items():
            tensor = source.tensor(each)
            kept = target.kept(each)
            fresh = kept is None or kept.file != name or not holds(file, len(header) + start, tensor)
            if fresh:
                if kept is not None:
                    target.forget(each)
                file.seek(len(header) + start)
                file.write(raw(tensor))
                file.flush()
                sums.add((each, name, len(header) + start, len(header) + end), {each: tensor})
            progress.add(end - start, kept=not fresh)
            del tensor  # before the next one is put together
        file.truncate(len(header) + max((end for _, end in places.values()), default=0))


def holds(file: BinaryIO, start: int, tensor: Tensor) -> bool:
    """Whether the file has a tensor's bytes at this place."""
    content = raw(tensor)
    file.seek(start)
    for at in range(0, len(content), SLICE):
        wanted = bytes(content[at : at + SLICE])
        if file.read(len(wanted)) != wanted:
            return False
    return True
