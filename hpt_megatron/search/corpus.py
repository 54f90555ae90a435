"""The pages of a corpus: `pages.jsonl` in its folder, one page a line: `{"id", "image", "text"}`.

`id` is the relative path of the image without its extension, so two decks with a slide 1024 are two pages; a deck is
the folder part of the id. `image` is a path below the folder; a document without an image is shown as its text.

Invariants
    1. Ids are unique; a line that is not a page is named by its number.
    2. `fingerprint` is of the file's content: an index that was built from other pages is never used.

Example:
    >>> Page("deck/2", "deck/2.jpg", "text").deck
    'deck'
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hpt_megatron.errors import UserError

FILE = "pages.jsonl"


@dataclass(frozen=True)
class Page:
    """One page."""

    id: str
    image: str
    text: str

    @property
    def deck(self) -> str:
        """The folder part of its id."""
        return self.id.rpartition("/")[0]


@dataclass(frozen=True)
class Corpus:
    """Pages in the order of the file."""

    folder: Path
    pages: tuple[Page, ...]
    fingerprint: str

    @classmethod
    def read(cls, folder: Path) -> "Corpus":
        """From its folder."""
        path = folder / FILE
        if not path.is_file():
            raise UserError(f"there is no {FILE}", where=str(folder), mend="make one with `hpt data corpus`")
        data = path.read_bytes()
        pages = tuple(_page(line, f"{path}:{i}") for i, line in enumerate(data.splitlines(), 1) if line.strip())
        if not pages:
            raise UserError("holds no page", where=str(path))
        _unique([page.id for page in pages], str(path))
        return cls(folder, pages, hashlib.sha256(data).hexdigest()[:16])

    @cached_property
    def decks(self) -> dict[str, list[int]]:
        """The numbers of the pages of each deck."""
        found: dict[str, list[int]] = {}
        for number, page in enumerate(self.pages):
            found.setdefault(page.deck, []).append(number)
        return found

    def deck(self, row: int | str | None) -> list[int] | None:
        """The pages of a deck by name or number; None for the whole corpus; none at all for a deck that is unknown."""
        if row is None:
            return None
        names = list(self.decks)
        if isinstance(row, int):
            return self.decks[names[row]] if 0 <= row < len(names) else []
        return self.decks.get(row, [])


def _page(line: bytes, where: str) -> Page:
    try:
        told = json.loads(line)
        page = Page(told["id"], told.get("image") or "", told.get("text") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError("is not a page", where=where, mend='{"id": ..., "image": ..., "text": ...}') from error
    if not (isinstance(page.id, str) and page.id and isinstance(page.image, str) and isinstance(page.text, str)):
        raise UserError("a page has an id, an image and a text, all of them text", where=where)
    return page


def _unique(ids: Sequence[str], where: str) -> None:
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(one for one in ids if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise UserError(f"page {twice} stands twice", where=where)
