"""The pages of a corpus: `pages.jsonl` in its folder, one page a line: `{"id", "image", "text", "deck"}`.

`id` is the relative path of the image without its extension, so two decks with a slide 1024 are two pages. `image` is a
path below the folder; a document without an image is shown as its text. `deck` is the document or folder that the page
belongs to; where a line has none it is the folder part of the id.

Invariants
    1. Ids are unique; a line that is not a page is named by its number.
    2. `fingerprint` is of the file's content: an index that was built from other pages is never used.
    3. A deck's pages stand in the order of the file.

Example:
    >>> _page(b'{"id": "deck/2"}', "here")
    Page(id='deck/2', image='', text='', deck='deck')
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
    deck: str = ""


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
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
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

    def deck(self, name: str | None) -> list[int] | None:
        """The pages of a deck; None for the whole corpus; none at all for a deck that is unknown."""
        return None if name is None else self.decks.get(name, [])


def _page(line: bytes, where: str) -> Page:
    try:
        told = json.loads(line)
        name, image, text = told["id"], told.get("image") or "", told.get("text") or ""
        deck = told.get("deck")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError("is not a page", where=where, mend='{"id": ..., "image": ..., "text": ...}') from error
    if not (isinstance(name, str) and name and isinstance(image, str) and isinstance(text, str)):
        raise UserError("a page has an id, an image and a text, all of them text", where=where)
    if not (deck is None or isinstance(deck, str)):
        raise UserError("the deck of a page is a text", where=where)
    return Page(_sound(name), _sound(image), _sound(text), _sound(name.rpartition("/")[0] if deck is None else deck))


def _sound(text: str) -> str:
    """Half of a surrogate pair, which JSON can carry, cannot be sent."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _unique(ids: Sequence[str], where: str) -> None:
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(one for one in ids if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise UserError(f"page {twice} stands twice", where=where)
