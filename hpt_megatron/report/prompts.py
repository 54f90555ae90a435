"""What the prompts of some rollouts ask, show, and demonstrate: read from the data files that the run was given.

Invariants
    1. What cannot be read is said, and the page is made without it.
    2. Files of more than `READ_MOST` bytes are not opened, and images stop at `IMAGES_MOST` characters; it is said.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpt_megatron.data.reading import read
from hpt_megatron.data.record import IMAGE, Message, Record, Source
from hpt_megatron.data.tasks.place import TRAIN, VAL, task_folder
from hpt_megatron.errors import UserError
from hpt_megatron.report.folder import Recorded
from hpt_megatron.report.rollouts import cut

READ_MOST = 512 * 2**20
IMAGES_MOST = 3 * 2**20
SIDE = 224
PURPOSES = {"train": ("data.train_files", TRAIN), "validate": ("data.val_files", VAL)}


@dataclass
class Asked:
    """By purpose and uid what a prompt is, ready for JSON; `notes` say what is missing."""

    prompts: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    room: int = IMAGES_MOST

    def note(self, what: str) -> None:
        """Says something once."""
        if what not in self.notes:
            self.notes.append(what)


def prompts_of(run: Recorded, wanted: Iterable[tuple[str, str]], room: int = IMAGES_MOST) -> Asked:
    """Those of some (purpose, uid)."""
    asked, wanted = Asked(room=room), list(wanted)
    for purpose in PURPOSES:
        uids = {uid for kind, uid in wanted if kind == purpose}
        if not uids:
            continue
        for record in _records(run, purpose, asked):
            if record.index in uids:
                asked.prompts[purpose, record.index] = _shown(record, asked)
    return asked


def files_of(run: Recorded, purpose: str) -> list[Path]:
    """The data files of a run: those that it names, or those that it made in its folder."""
    key, made = PURPOSES[purpose]
    named = run.value(key)
    if isinstance(named, list) and named:
        return [Path(str(file)) for file in named]
    task = run.value("data.make")
    return [task_folder(run.folder, task) / made] if isinstance(task, str) else []


def _records(run: Recorded, purpose: str, asked: Asked) -> Sequence[Record]:
    files = files_of(run, purpose)
    if not files:
        asked.note("the run names no data files, so prompts and demonstrations are not shown")
        return []
    gone = [file for file in files if not file.is_file()]
    if gone:
        asked.note(f"{gone[0]} is not there, so prompts and demonstrations are not shown")
        return []
    size = sum(file.stat().st_size for file in files)
    if size > READ_MOST:
        asked.note(f"the data files have {size / 2**20:,.0f} MiB; prompts are shown up to {READ_MOST // 2**20}")
        return []
    root = run.value("data.image_root")
    try:
        return read(files, root if isinstance(root, str) else None).records
    except ModuleNotFoundError as error:
        asked.note(f"prompts need the package {error.name}, which is not installed")
        return []


def _shown(record: Record, asked: Asked) -> dict[str, Any]:
    return {
        "prompt": _said(record.prompt),
        "target": _said(record.target or ()),
        "golds": [cut(gold) for gold in record.golds[:4]],
        "source": record.data_source,
        "images": [shown for image in record.images if (shown := _picture(image, asked)) is not None],
    }


def _said(messages: Sequence[Message]) -> list[list[str]]:
    return [[message.role, cut(message.content.replace(IMAGE, "[image]"))] for message in messages]


def _picture(source: Source, asked: Asked) -> str | None:
    try:
        from hpt_megatron.data.thumbnail import thumbnail  # numpy and pillow, which a login node may not have

        address = thumbnail(source, SIDE).address
    except ModuleNotFoundError as error:
        asked.note(f"images need the package {error.name}, which is not installed")
        return None
    except UserError as error:
        asked.note(f"an image is not shown: {error}")
        return None
    if len(address) > asked.room:
        asked.note("only some prompts are shown with their images: no room is left in the page")
        return None
    asked.room -= len(address)
    return address
