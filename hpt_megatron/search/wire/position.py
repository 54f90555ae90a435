"""`POST [{"query", "request_idx", "row_index", "deck"}]` -> `[{"request_idx", "results": [{"position", "score"}]}]`:
pages of one deck.

`row_index` says which row of the data set asks, and so in which deck to look; a position counts that deck's pages
from 0. The one who asks knows the pages (`document_images` of the row). Our server has never seen the rows: it goes by
`deck`, the deck's name, which our client adds, or by a `row_index` that is a name; a number alone is refused.

Example: position 2 of a deck of a.jpg, b.jpg, c.jpg is c.jpg.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hpt_megatron.search.hit import Asked, Call, Hit, WireError, number, row, rows, text
from hpt_megatron.search.wire import indexed


def calls(asked: Sequence[Asked]) -> list[Call]:
    """One request for all."""
    body = []
    for i, one in enumerate(asked):
        named = {} if one.deck is None else {"deck": one.deck}
        body.append({"query": one.text, "request_idx": i, "row_index": one.row, **named})
    return [Call("POST", tuple(asked), body=body)]


def read(payload: Any, asked: Sequence[Asked]) -> dict[str, list[Hit]]:
    """Hits by id, as positions."""
    return indexed.read(payload, asked, _hit)


def _hit(entry: dict[str, Any]) -> Hit:
    return Hit(position=int(number(entry, "position")), score=number(entry, "score", 0.0))


def parse(params: Sequence[tuple[str, str]], body: Any) -> list[Asked]:
    """The server's side of `calls`."""
    found = []
    for entry in map(row, rows(body)):
        deck = entry.get("deck", entry.get("row_index"))
        if deck is not None and not isinstance(deck, str):
            raise WireError("decks are known by name here: send it as `deck`")
        found.append(Asked(str(int(number(entry, "request_idx"))), text(entry, "query"), deck))
    return found


def reply(asked: Sequence[Asked], hits: Mapping[str, Sequence[Hit]]) -> Any:
    """The server's side of `read`."""
    return indexed.reply(asked, hits, _told)


def _told(hit: Hit) -> dict[str, Any]:
    return {"position": hit.position, "score": hit.score}
