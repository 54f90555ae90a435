"""`GET ?queries=a&queries=b` -> `[[{"idx": 3, "image_file": "deck/3.jpg"}, ...], ...]`, as VRAG's search engine.

The format has no ids. Our server adds `query` to each hit; where it is there, results are matched by it, else by
order, and then there must be as many as were asked. Addresses are kept short: many servers refuse those of more than
8 kB.

Example: two queries, answered in the wrong order but with their `query`, end up where they belong.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote_plus

from hpt_megatron.search.hit import Asked, Call, Hit, WireError, by_text, number, row, rows, text

LONGEST_URL = 7000


def calls(asked: Sequence[Asked]) -> list[Call]:
    """As many requests as it takes to keep each address short."""
    found: list[list[Asked]] = [[]]
    size = 0
    for one in asked:
        length = len(quote_plus(one.text)) + len("&queries=")
        if found[-1] and size + length > LONGEST_URL:
            found.append([])
            size = 0
        found[-1].append(one)
        size += length
    return [Call("GET", tuple(part), tuple(("queries", one.text) for one in part)) for part in found if part]


def read(payload: Any, asked: Sequence[Asked]) -> dict[str, list[Hit]]:
    """Hits by id."""
    lists = [[row(entry) for entry in rows(part)] for part in rows(payload)]
    if len(lists) != len(asked):
        raise WireError(f"{len(lists)} results for {len(asked)} queries, and the format has no ids")
    ids = by_text(asked)
    found: dict[str, list[Hit]] = {}
    unnamed: list[tuple[int, list[dict[str, Any]]]] = []
    for i, part in enumerate(lists):
        echo = part[0].get("query") if part else None
        if not isinstance(echo, str):
            unnamed.append((i, part))
        else:
            found |= {one: [_hit(entry) for entry in part] for one in ids.get(echo, ())}
    left = [one.id for one in asked if one.id not in found]
    for i, part in unnamed:
        own = asked[i].id  # by order; an empty list is as good at any place
        target = own if own not in found else next((one for one in left if one not in found), None)
        if target is not None:
            found[target] = [_hit(entry) for entry in part]
    return found


def _hit(entry: dict[str, Any]) -> Hit:
    return Hit(image=text(entry, "image_file"), score=number(entry, "score", 0.0))


def parse(params: Sequence[tuple[str, str]], body: Any) -> list[Asked]:
    """The server's side of `calls`."""
    return [Asked(str(i), value) for i, value in enumerate(value for key, value in params if key == "queries")]


def reply(asked: Sequence[Asked], hits: Mapping[str, Sequence[Hit]]) -> Any:
    """The server's side of `read`."""
    return [
        [{"idx": hit.number, "image_file": hit.image, "score": hit.score, "query": one.text} for hit in hits[one.id]]
        for one in asked
    ]
