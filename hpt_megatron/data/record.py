"""One row of data, whatever file it came from.

Decision: everything behind the readers sees this record alone. Columns of public sets, arrow's nested arrays and the
four ways in which a cell may hold an image end at the door (`reading.py`, `importers/`).

Invariants
    1. The mark `<image>` in a text says where an image stands. A prompt has as many marks as `images`, a target as many
       as `target_images`, in the same order.
    2. `index` names the row: it is the id of its group of rollouts. Readers keep it unique within a set of files.
    3. A target is None where there is none. An empty text is no target either.
    4. Nothing here reads a file but `Source.read`.
    5. `extra` holds no None, at any depth: a key without a value is not there. Files cannot tell the two apart.

Example:
    >>> row = Record(index="7", prompt=(Message("user", "<image>count ?"),), images=(Source(path="a.png"),))
    >>> row.golds, row.modality, row.target is None
    ((), 'image', True)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpt_megatron.errors import UserError

IMAGE = "<image>"
ROLES = ("system", "user", "assistant")
LARGEST_FILE = 256 * 1024 * 1024  # bytes of one image file


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str

    @property
    def num_images(self) -> int:
        """How many images its text asks for."""
        return self.content.count(IMAGE)


@dataclass(frozen=True)
class Source:
    """Where an image is: its encoded bytes, or the path of a file."""

    data: bytes | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.path is None):
            raise ValueError("an image is given as bytes or as a path, and as one of them")

    def read(self) -> bytes:
        """The encoded bytes."""
        if self.data is not None:
            return self.data
        path = Path(self.path or "")
        try:
            if not path.is_file():
                raise UserError("no such file" if not path.exists() else "is not a file", where=self.name)
            if path.stat().st_size > LARGEST_FILE:
                raise UserError(f"has more than {LARGEST_FILE // 2**20} MiB", where=self.name)
            return path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            raise UserError(f"cannot be read: {error}", where=self.name) from error

    @property
    def name(self) -> str:
        """What a message calls it, on one line."""
        if self.data is not None:
            return f"an image of {len(self.data)} bytes"
        return str(self.path) if str(self.path).isprintable() else repr(self.path)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A prompt with its images, its demonstration if there is one, and what the rewards need."""

    index: str
    prompt: tuple[Message, ...]
    data_source: str = ""
    images: tuple[Source, ...] = ()
    target: tuple[Message, ...] | None = None  # ends with the assistant; in between, what the environment said
    target_images: tuple[Source, ...] = ()
    golds: tuple[str, ...] = ()  # any of them is right
    style: str = "rule"
    ability: str = ""
    choices: tuple[str, ...] = ()  # of a multiple choice question, in the order of their letters
    reference: tuple[str, ...] = ()  # canonical ids of the pages that hold the answer
    modality: str = ""  # text, image, or images; found out where it is not given
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.modality:
            found = "text" if not self.images else "image" if len(self.images) == 1 else "images"
            object.__setattr__(self, "modality", found)
        object.__setattr__(self, "extra", _without_none(self.extra))

    @property
    def target_text(self) -> str | None:
        """The demonstration of a single turn; None where there is none or it has several turns."""
        return self.target[0].content if self.target and len(self.target) == 1 else None

    @property
    def demonstrated(self) -> tuple[Any, ...]:
        """What is asked, right and shown, as a key: files of a warm-up may share an index with those of the rest."""
        return self.index, self.prompt, self.images, self.golds, self.target, self.target_images

    @property
    def question(self) -> str:
        """The last text of the user."""
        asked = [message.content for message in self.prompt if message.role == "user"]
        return asked[-1] if asked else ""


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value


def marks_of(messages: Sequence[Message] | None) -> int:
    """How many images a conversation asks for."""
    return sum(message.num_images for message in messages or ())


def problems_of(row: Record) -> list[str]:
    """What is wrong with a record in itself, each as a few words; empty where it is sound."""
    found = []
    if not row.prompt:
        found.append("the prompt has no message")
    messages = (*row.prompt, *(row.target or ()))
    found += [f"unknown role {message.role!r}" for message in messages if message.role not in ROLES]
    if row.prompt and row.prompt[-1].role != "user":
        found.append(f"the prompt ends with {row.prompt[-1].role!r}, not with the user")
    if marks_of(row.prompt) != len(row.images):
        found.append(f"the prompt marks {marks_of(row.prompt)} images and {len(row.images)} are given")
    if marks_of(row.target) != len(row.target_images):
        found.append(f"the target marks {marks_of(row.target)} images and {len(row.target_images)} are given")
    if row.target and row.target[-1].role != "assistant":
        found.append(f"the target ends with {row.target[-1].role!r}, not with the assistant")
    return found
