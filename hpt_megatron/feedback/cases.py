"""Rows with answers that can be compared or revised: a prompt, and one answer or several, as texts.

    chosen, rejected             a pair, in any of the shapes that `data/rows.py` reads
    target, extra_info.rejected  the same in our own schema
    answers | responses          a list of texts or of messages
    target                       one answer, for revision

Invariant: an answer is what the assistant says in one message, without an image; a row of which that is not true is
left out, and counted with its place.

Example:
    >>> case_of({"prompt": "1+1 ?", "answers": ["2", "3"]}, "a.jsonl:1").answers
    ('2', '3')
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpt_megatron.data.files import attempts
from hpt_megatron.data.reading import Problem, distinct, problem_of
from hpt_megatron.data.record import IMAGE, Message, Record
from hpt_megatron.data.rows import messages_of, record_of
from hpt_megatron.errors import UserError

LISTS = ("answers", "responses")
REJECTED = "rejected"


@dataclass(frozen=True)
class Case:
    """A prompt with answers; `given`: the first one is preferred by whoever wrote the row. The record has no target."""

    record: Record
    answers: tuple[str, ...]
    given: bool


@dataclass(frozen=True)
class Cases:
    """What a file holds, and what of it cannot be used."""

    held: list[Case]
    problems: list[Problem]


def read_cases(path: str | Path, least: int, image_root: str | None = None) -> Cases:
    """Every row with at least so many answers; an error where there is none."""
    held: list[Case] = []
    problems: list[Problem] = []
    for where, row in attempts(path):
        try:
            if isinstance(row, UserError):
                raise row
            case = case_of(row, where, image_root or Path(path).parent)
            if len(case.answers) < least:
                raise UserError(f"has {len(case.answers)} answers, {least} are needed", where=where)
            held.append(case)
        except UserError as error:
            problems.append(problem_of(error, where))
    if not held:
        first = f": {problems[0].what}" if problems else ""
        columns = "prompt with chosen and rejected, or with answers" if least > 1 else "prompt, or prompt and target"
        raise UserError(f"no row can be used{first}", where=str(path), mend=f"columns: {columns}")
    records, _ = distinct([case.record for case in held])
    return Cases([replace(case, record=one) for case, one in zip(held, records, strict=True)], problems)


def case_of(row: Mapping[str, Any], where: str, root: str | Path = "") -> Case:
    """One row; whatever is wrong with it is one line."""
    listed = next((row[name] for name in LISTS if isinstance(row.get(name), list) and len(row[name]) > 1), None)
    record = record_of({name: value for name, value in row.items() if name not in LISTS}, where, root)
    other = record.extra.get(REJECTED)
    bare = {name: value for name, value in record.extra.items() if name != REJECTED}
    asked = replace(record, target=None, target_images=(), extra=bare)
    if other and record.target:
        pair = (said(record.target, where), said(messages_of(other, "assistant"), where))
        return Case(asked, pair, given=True)
    if listed is not None:
        return Case(asked, tuple(said(messages_of(each, "assistant"), where) for each in listed), given=False)
    return Case(asked, (said(record.target, where),) if record.target else (), given=False)


def said(messages: Sequence[Message], where: str) -> str:
    """The text of an answer."""
    if len(messages) != 1 or messages[0].role != "assistant":
        raise UserError("an answer is not one message of the assistant", where=where)
    if IMAGE in messages[0].content:
        raise UserError("an answer shows an image", where=where)
    return messages[0].content


def usable(text: str) -> str:
    """A text of a model as a file takes it: half of a surrogate pair is none.

    >>> usable(" a" + chr(0xD800))
    'a?'
    """
    return text.encode("utf-8", "replace").decode().strip()
