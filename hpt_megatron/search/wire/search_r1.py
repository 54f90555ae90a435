"""`POST {"queries", "topk", "return_scores"}` -> `{"result": [[{"document": {"contents"}, "score"}]]}`, as Search-R1.

The format has no ids. Our server adds `queries` to its answer; where it is there, results are matched by it, else by
order, and then there must be as many as were asked. Our documents also carry `id` and `image_file`.

Example: a document without `image_file` is shown as text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hpt_megatron.search.hit import Asked, Call, Hit, WireError, by_text, number, row, rows, text


def calls(asked: Sequence[Asked]) -> list[Call]:
    """One request for all."""
    most = max((one.topk for one in asked), default=1)
    body = {"queries": [one.text for one in asked], "topk": most, "return_scores": True}
    return [Call("POST", tuple(asked), body=body)]


def read(payload: Any, asked: Sequence[Asked]) -> dict[str, list[Hit]]:
    """Hits by id."""
    told = row(payload)
    lists = [[_hit(row(entry)) for entry in rows(part)] for part in rows(told.get("result"))]
    echo = told.get("queries")
    if isinstance(echo, list) and len(echo) == len(lists):
        ids = by_text(asked)
        return {one: part for name, part in zip(echo, lists, strict=True) for one in ids.get(str(name), ())}
    if len(lists) != len(asked):
        raise WireError(f"{len(lists)} results for {len(asked)} queries, and the format has no ids")
    return {one.id: part for one, part in zip(asked, lists, strict=True)}


def _hit(entry: dict[str, Any]) -> Hit:
    document = row(entry.get("document", entry))
    return Hit(
        text(document, "id", ""),
        text(document, "image_file", ""),
        text(document, "contents", ""),
        number(entry, "score", 0.0),
    )


def parse(params: Sequence[tuple[str, str]], body: Any) -> list[Asked]:
    """The server's side of `calls`."""
    told = row(body)
    topk = int(number(told, "topk", 3))
    found = []
    for i, query in enumerate(rows(told.get("queries"))):
        if not isinstance(query, str):
            raise WireError("a query is not a text")
        found.append(Asked(str(i), query, topk=topk))
    return found


def reply(asked: Sequence[Asked], hits: Mapping[str, Sequence[Hit]]) -> Any:
    """The server's side of `read`."""

    def told(hit: Hit) -> dict[str, Any]:
        return {"document": {"id": hit.page, "contents": hit.text, "image_file": hit.image}, "score": hit.score}

    result = [[told(hit) for hit in hits[one.id]] for one in asked]
    return {"result": result, "queries": [one.text for one in asked]}
