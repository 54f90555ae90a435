"""What is asked of a search service and what it answers, whatever the wire format.

Example:
    >>> Asked("1", "red fox").deck is None, Hit(page="deck/1024", image="deck/1024.jpg").text
    (True, '')
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class WireError(Exception):
    """A request or an answer that is not in its format."""


@dataclass(frozen=True)
class Query:
    """Words, and where the format knows decks: which row of the data set, its deck's pages in order and its name."""

    text: str
    row: int | str | None = None
    pages: tuple[str, ...] = ()
    deck: str | None = None


@dataclass(frozen=True)
class Asked:
    """A query on the wire, under an id of its own."""

    id: str
    text: str
    deck: str | None = None  # the pages of this one alone
    topk: int = 10
    row: int | str | None = None


@dataclass(frozen=True)
class Hit:
    """One result: a page with its image, or a document with its text, or a place in a deck."""

    page: str = ""
    image: str = ""  # path below the root of the corpus, as the server said it
    text: str = ""
    score: float = 0.0
    number: int = -1  # of the page in the corpus
    position: int | None = None  # of the page in its deck


@dataclass(frozen=True)
class Call:
    """One HTTP request: the query string or the JSON body, and whose answers it brings."""

    method: str
    asked: tuple[Asked, ...]
    params: tuple[tuple[str, str], ...] = ()
    body: Any = None


def by_text(asked: Sequence[Asked]) -> dict[str, list[str]]:
    """The ids of each text: two who ask the same get the same answer."""
    found: dict[str, list[str]] = {}
    for one in asked:
        found.setdefault(one.text, []).append(one.id)
    return found


def rows(payload: Any, what: str = "a list") -> list[Any]:
    """A JSON list, or an error that says so."""
    if not isinstance(payload, list):
        raise WireError(f"expected {what}, got {type(payload).__name__}")
    return payload


def row(payload: Any) -> dict[str, Any]:
    """A JSON object, or an error that says so."""
    if not isinstance(payload, dict):
        raise WireError(f"expected an object, got {type(payload).__name__}")
    return payload


def text(entry: dict[str, Any], key: str, default: str | None = None) -> str:
    """A string of an object."""
    value = entry.get(key, default)
    if not isinstance(value, str):
        raise WireError(f"{key} is not a text")
    return value


def number(entry: dict[str, Any], key: str, default: float | None = None) -> float:
    """A number of an object."""
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WireError(f"{key} is not a number")
    return float(value)
