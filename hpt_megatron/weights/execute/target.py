"""The folder that a conversion writes: beside its final name until it is whole, and able to go on after a kill.

    with Target(out, plan, needed, resume=False) as target:
        ... target.kept("model.norm.weight") is what an earlier run left of it, or nothing
        ... target.wrote(Piece("model.norm.weight", ...))
        target.finish()

While it is written the folder is called `.NAME.partial` and holds a journal: a first line that says what is converted
and how, then a line for every tensor with its place and checksum.

Invariants
    1. Under the final name there is nothing, or everything: files and folder reach the disk before the rename.
    2. What is kept of an earlier run is read again and compared with what would be written.
    3. Two conversions do not write one folder: the journal is locked.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from hpt_megatron.errors import UserError

JOURNAL, MANIFEST = "journal.jsonl", "manifest.json"
SLACK = 64 * 2**20  # what a disk needs beside the numbers: descriptions, blocks, what others write meanwhile


@dataclass(frozen=True)
class Piece:
    """One thing that was written: from which byte of which file to which, and what it was made of, with checksums."""

    name: str
    file: str
    start: int
    end: int
    sha256: dict[str, str]  # by the names of the hub's tensors


class Target:
    """See the module."""

    def __init__(self, out: str | Path, plan: Mapping[str, Any], needed: int, resume: bool) -> None:
        if not os.fspath(out):
            raise UserError("OUT is empty", mend="give the folder to write")
        self.out = Path(os.path.realpath(out))
        self.beside = self.out.with_name(f".{self.out.name}.partial")
        self.pieces: dict[str, Piece] = {}
        self._first = json.dumps(plan, sort_keys=True)
        self._needed, self._resume = needed, resume
        self._journal: IO[str] | None = None
        if self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
            raise UserError("exists already", where=str(self.out), mend="give another folder")

    def __enter__(self) -> "Target":
        try:
            self._open()
        except OSError as error:
            raise self._failed(error) from error
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._journal is not None:
            self._journal.close()
        if isinstance(error, OSError):
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> UserError:
        mend = "free some space and go on with --resume" if self.pieces else "give a folder that can be written"
        return UserError(f"cannot be written: {error.strerror or error}", where=str(self.out), mend=mend)

    def _open(self) -> None:
        self.beside.mkdir(parents=True, exist_ok=True)
        self._journal = (self.beside / JOURNAL).open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError("another conversion is writing it", where=str(self.out)) from error
        self._journal.seek(0)
        lines = self._journal.read().split("\n")[:-1]  # a last line without its end was cut off
        if self._resume and lines:
            self._take_up(lines)
        else:
            for path in self.beside.iterdir():
                if path.name != JOURNAL:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._journal.truncate(0)
        for line in (self._first, *(json.dumps(asdict(piece)) for piece in self.pieces.values())):
            self._journal.write(line + "\n")
        self._journal.flush()
        there = sum(piece.end - piece.start for piece in self.pieces.values())
        free, needed = shutil.disk_usage(self.beside).free, self._needed - there + SLACK
        if free < needed:
            if not self.pieces:
                shutil.rmtree(self.beside)
            what = f"needs {needed / 2**30:.1f} GiB where {free / 2**30:.1f} GiB are free"
            raise UserError(what, where=str(self.out), mend="free some space or give a folder on another disk")

    def _take_up(self, lines: list[str]) -> None:
        if lines[0] != self._first:
            what = "an interrupted conversion of other files, or with other options, lies there"
            raise UserError(what, where=str(self.beside), mend="leave --resume away to start again")
        for line in lines[1:]:
            piece = Piece(**json.loads(line))
            file = self.beside / piece.file
            if not file.is_file() or file.stat().st_size < piece.end:
                break
            self.pieces[piece.name] = piece

    def kept(self, name: str) -> Piece | None:
        """What an earlier run left of a thing; the caller compares it with what it would write."""
        return self.pieces.get(name)

    def forget(self, name: str) -> None:
        """What was kept is not what it should be: it and everything after it is written again."""
        names = list(self.pieces)
        for later in names[names.index(name) :]:
            del self.pieces[later]

    def wrote(self, piece: Piece) -> None:
        """One more thing is there."""
        assert self._journal is not None
        self.pieces[piece.name] = piece
        self._journal.write(json.dumps(asdict(piece)) + "\n")
        self._journal.flush()

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Brings everything to the disk and gives the folder its name."""
        (self.beside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for path in sorted(self.beside.rglob("*")):
            if path.name != JOURNAL:
                to_disk(path)
        to_disk(self.beside)
        (self.beside / JOURNAL).unlink()
        self.beside.rename(self.out)
        to_disk(self.out.parent)


def to_disk(path: Path) -> None:
    """Waits until a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def manifest_of(target: Target, about: Mapping[str, Any], order: Mapping[str, Any]) -> dict[str, Any]:
    """What is written beside the numbers: the checksum of every tensor, by the hub's names, and one over all."""
    sums = {name: total for piece in target.pieces.values() for name, total in piece.sha256.items()}
    tensors = {
        name: {"dtype": order[name].dtype, "shape": list(order[name].shape), "sha256": sums[name]} for name in order
    }
    return {**about, "digest": digest(tensors), "tensors": tensors}


def digest(tensors: Mapping[str, Mapping[str, Any]]) -> str:
    """One checksum over all: the same for two checkpoints whose tensors are the same, in whichever format they are."""
    total = hashlib.sha256()
    for name, one in sorted(tensors.items()):
        total.update(f"{name} {one['dtype']} {one['shape']} {one['sha256']}\n".encode())
    return total.hexdigest()
