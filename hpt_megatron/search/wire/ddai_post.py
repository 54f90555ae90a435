"""`POST [{"query", "id", "request_idx"}]` -> `[{"request_idx", "id", "results": [{"idx", "image_file", "score"}]}]`.

Results are matched by `request_idx`; one that is missing is missing for its query alone.

Example: answers in any order end up where they belong.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hpt_megatron.search.hit import Asked, Call, Hit, number, row, rows, text
from hpt_megatron.search.wire import indexed


def calls(asked: Sequence[Asked]) -> list[Call]:
    """One request for all."""
    body = [{"query": one.text, "id": one.id, "request_idx": i} for i, one in enumerate(asked)]
    return [Call("POST", tuple(asked), body=body)]


def read(payload: Any, asked: Sequence[Asked]) -> dict[str, list[Hit]]:
    """Hits by id."""
    return indexed.read(payload, asked, _hit)


def _hit(entry: dict[str, Any]) -> Hit:
    return Hit(image=text(entry, "image_file"), score=number(entry, "score", 0.0))


def parse(params: Sequence[tuple[str, str]], body: Any) -> list[Asked]:
    """The server's side of `calls`; the id of a query is its `request_idx`."""
    return [Asked(str(int(number(entry, "request_idx"))), text(entry, "query")) for entry in map(row, rows(body))]


def reply(asked: Sequence[Asked], hits: Mapping[str, Sequence[Hit]]) -> Any:
    """The server's side of `read`."""
    return indexed.reply(asked, hits, _told)


def _told(hit: Hit) -> dict[str, Any]:
    return {"idx": hit.number, "image_file": hit.image, "score": hit.score}
