"""The formats by name, and which of them a request is in.

Example:
    >>> format_of("POST", [{"query": "a", "request_idx": 0, "row_index": 4}])
    'position'
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hpt_megatron.search.hit import Asked, Call, Hit, WireError
from hpt_megatron.search.wire import ddai_post, position, search_r1, vrag_get


class Wire(Protocol):
    """What each file of this folder is."""

    def calls(self, asked: Sequence[Asked]) -> list[Call]:
        """The requests that ask them all."""

    def read(self, payload: Any, asked: Sequence[Asked]) -> dict[str, list[Hit]]:
        """The answer to one of these requests; a query that has none is missing."""

    def parse(self, params: Sequence[tuple[str, str]], body: Any) -> list[Asked]:
        """What a request asks, on the server's side."""

    def reply(self, asked: Sequence[Asked], hits: Mapping[str, Sequence[Hit]]) -> Any:
        """The answer, on the server's side."""


WIRES: dict[str, Wire] = {
    "vrag_get": vrag_get,
    "ddai_post": ddai_post,
    "position": position,
    "search_r1": search_r1,
}


def format_of(method: str, body: Any) -> str:
    """The format of a request, by its shape."""
    if method == "GET":
        return "vrag_get"
    if isinstance(body, dict):
        return "search_r1"
    if isinstance(body, list):
        decks = [isinstance(entry, dict) and "row_index" in entry for entry in body]
        if any(decks) and not all(decks):
            raise WireError("some of the queries have a row_index, and some have none")
        return "position" if any(decks) else "ddai_post"
    raise WireError("a body is a list of queries, or an object with `queries`")
