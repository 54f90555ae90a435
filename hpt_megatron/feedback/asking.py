"""Asking a model about many rows: at the same time, once for each question, and again after an interruption.

Decision: the HTTP part is the judge's of the rewards (`rewards/judge.py`): bounded requests, retries and seconds, a
token by the name of its variable. Here replies are kept beside the output, by the digest of what was asked, until the
output is written; so a run that was cut off, or whose judge went away, pays for no question twice.

Invariants
    1. What a model says is data: it is read by a function that answers None for what it does not understand, and put
       between marks that hold a number it cannot know when it is shown to a model again.
    2. A question without an answer (the judge is away, late, refuses) is not the same as an answer that says nothing:
       with the first the output is not written, the second is counted.
    3. After `GIVE_UP` failures in a row no further row is asked about.

Example: `Asking(Judge(settings), Path(".labels.parquet.replies.jsonl")).ask(conversation, choice)`
"""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hpt_megatron.data.record import IMAGE, Message, Record
from hpt_megatron.errors import UserError
from hpt_megatron.rewards.component import ComponentError
from hpt_megatron.rewards.judge import TEMPLATE, Conversation, Judge

Row = TypeVar("Row")
Made = TypeVar("Made")
UNCLEAR = "judge_unclear"
GIVE_UP = 8
KINDS = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}
LONGEST_PROMPT, LONGEST_ANSWER = 8000, 8000  # characters


@dataclass
class Asking:
    """See the module; `kept` is the file of replies, None where none are kept."""

    judge: Judge
    kept: Path | None = None
    _replies: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kept is not None and self.kept.is_file():
            for line in self.kept.read_text(encoding="utf-8", errors="replace").splitlines():
                key, reply = _kept(line)
                if key:
                    self._replies[key] = reply
        self.taken = len(self._replies)

    def ask(self, conversation: Conversation, read: Callable[[str], Made | None], seed: int = 0) -> Made:
        """What `read` makes of the reply; a `ComponentError` where there is none, or none that it understands."""
        asked = json.dumps([self.judge.settings.url, self.judge.request(conversation, seed)], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()
        known = self._replies.get(key)
        found = None if known is None else read(known)
        if found is not None:
            return found
        reply: list[str] = []

        def taken(text: str) -> Made | None:
            reply[:] = [text]
            return read(text)

        made = self.judge.asked(conversation, taken, seed)
        self._keep(key, reply[0])
        return made

    def _keep(self, key: str, reply: str) -> None:
        with self._lock:
            self._replies[key] = reply
            if self.kept is None:
                return
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            with self.kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "reply": reply}) + "\n")

    def each(self, rows: Iterable[Row], work: Callable[[Row], Made]) -> list[Made | ComponentError]:
        """What `work` makes of every row, in their order; at once as many as the judge takes requests."""
        given_up, in_a_row = threading.Event(), [0]

        def one(row: Row) -> Made | ComponentError:
            if given_up.is_set():
                return ComponentError("judge_given_up", "not asked, after many failures in a row")
            try:
                made = work(row)
            except ComponentError as error:
                in_a_row[0] += error.flag != UNCLEAR
                if in_a_row[0] >= GIVE_UP:
                    given_up.set()
                return error
            in_a_row[0] = 0
            return made

        with ThreadPoolExecutor(self.judge.settings.concurrency) as threads:
            return list(threads.map(one, list(rows)))

    def forget(self) -> None:
        """The output is written: the replies have done their work."""
        if self.kept is not None:
            self.kept.unlink(missing_ok=True)

    def metrics(self) -> dict[str, float]:
        """Requests, retries and seconds of the judge; `taken_up` are replies of an earlier try."""
        told = {name.removeprefix("judge/"): number for name, number in self.judge.metrics().items()}
        return {**told, "taken_up": float(self.taken)}


def beside(out: str | Path) -> Path:
    """Where the replies for an output are kept until it is written."""
    path = Path(out)
    return path.with_name(f".{path.name}.replies.jsonl")


def _kept(line: str) -> tuple[str, str]:
    try:
        told = json.loads(line)
        return str(told["key"]), str(told["reply"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return "", ""  # torn by the end of its writer


def answered(results: Sequence[Any], skip: bool) -> None:
    """Refuses an output of which some rows were never answered, unless they are to be skipped."""
    failed = [one for one in results if isinstance(one, ComponentError) and one.flag != UNCLEAR]
    if failed and (not skip or len(failed) == len(results)):
        what = f"{len(failed)} of {len(results)} rows were not answered: {failed[0]}"
        mend = "nothing was written; give the same command again, or --skip-failed"
        raise UserError(what[:600], where="the judge", mend=mend)


def shown(text: str, record: Record, images: bool = True) -> Any:
    """The content of a message: a text, with the record's images before it where it has some and they are sent."""
    if not (images and record.images):
        return text
    pictures = [{"type": "image_url", "image_url": {"url": data_url(image.read())}} for image in record.images]
    return [*pictures, {"type": "text", "text": text}]


def data_url(data: bytes) -> str:
    """An image as an address that holds it.

    >>> data_url(bytes([137]) + b"PNG")
    'data:image/png;base64,iVBORw=='
    """
    kind = next((kind for head, kind in KINDS.items() if data.startswith(head)), "image/png")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def spoken(messages: Sequence[Message]) -> str:
    """A conversation as text, its images by number, without marks of a chat template."""
    lines, number = [], 0
    for message in messages:
        text = message.content
        while IMAGE in text:
            number += 1
            text = text.replace(IMAGE, f"[image {number}] ", 1)
        lines.append(text if len(messages) == 1 else f"{message.role}: {text}")
    return TEMPLATE.sub(" ", "\n".join(lines)[:LONGEST_PROMPT])


def mark_of(*parts: str) -> str:
    """A number that who wrote the parts could not know."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
