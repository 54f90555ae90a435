"""A constitution: a short list of principles by which a judge prefers, criticises and revises answers.

    principles:
      - id: honest
        text: The answer claims no more certainty than it has.

Invariants
    1. An id is there once, is made of letters, digits, `-` and `_`, and names its principle in every row it decides.
    2. Which principles a row is asked about depends on the seed and on the row's index, not on other rows.

Example:
    >>> some = [Principle("honest", "It says what it knows."), Principle("short", "It is short.")]
    >>> [one.id for one in drawn(some, 1, 0, "row-7")] == [one.id for one in drawn(some, 1, 0, "row-7")]
    True
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpt_megatron.config.files import CONSTITUTIONS, read_named
from hpt_megatron.errors import UserError

ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
LONGEST = 2000  # characters of a principle


@dataclass(frozen=True)
class Principle:
    """What an answer should be like."""

    id: str
    text: str


def read_constitution(asked: str) -> list[Principle]:
    """The principles of one that ships, by its name, or of a file of YAML."""
    path, told = read_named(asked, CONSTITUTIONS)
    listed = told.get("principles") if isinstance(told, Mapping) else None
    if not isinstance(listed, list) or not listed or len(told) > 1:
        mend = "principles: a list of {id, text}"
        raise UserError("is no list of principles", where=str(path), mend=mend)
    found = [_principle(each, f"{path}: principles[{place}]") for place, each in enumerate(listed)]
    ids = [one.id for one in found]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise UserError(f"ids are there twice: {', '.join(twice)}", where=str(path), mend="an id of its own for each")
    return found


def _principle(told: Any, where: str) -> Principle:
    if not isinstance(told, Mapping) or set(told) != {"id", "text"}:
        raise UserError("needs an id and a text, and nothing else", where=where)
    name, text = str(told["id"]), told["text"]
    if not ID.match(name):
        raise UserError(f"the id {name[:80]!r} is not made of letters, digits, - and _", where=where)
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
        raise UserError(f"the text of {name} has no words, or more than {LONGEST} characters", where=where)
    return Principle(name, " ".join(text.split()))


def drawn(principles: Sequence[Principle], count: int, seed: int, index: str) -> list[Principle]:
    """So many different ones for a row, all of them if there are fewer, in an order by chance."""
    return random.Random(f"{seed}/principle/{index}").sample(list(principles), min(count, len(principles)))
