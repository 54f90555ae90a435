"""Answers that name the request they belong to, as two of the formats have them: `[{"request_idx", "results": [..]}]`.

Example: `read([{"request_idx": 1, "results": []}], asked, hit)` is `{asked[1].id: []}`; the other query is missing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpt_megatron.search.hit import Asked, Hit, number, row, rows


def read(payload: Any, asked: Sequence[Asked], hit: Callable[[dict[str, Any]], Hit]) -> dict[str, list[Hit]]:
    """Hits by id, in whatever order they came; what belongs to no request is left out."""
    found = {}
    for entry in map(row, rows(payload)):
        place = int(number(entry, "request_idx"))
        if 0 <= place < len(asked):
            found[asked[place].id] = [hit(row(each)) for each in rows(entry.get("results"))]
    return found


def reply(
    asked: Sequence[Asked], hits: Mapping[str, Sequence[Hit]], told: Callable[[Hit], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The server's side of `read`."""
    return [{"request_idx": int(one.id), "results": [told(hit) for hit in hits[one.id]]} for one in asked]
