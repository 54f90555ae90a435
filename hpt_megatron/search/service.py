"""The search service: a corpus and its index behind HTTP, in the four wire formats.

    GET  /search?queries=..        POST /search [..] or {..}        GET /health

Queries of several requests are ranked together: a batch waits at most 20 ms and holds at most 64. The ranking runs in a
thread, so `/health` answers meanwhile.

Invariants
    1. Which format a request is in is told by its shape, and the answer is in the same one.
    2. What is malformed or too large is answered 400 or 413 in one line; nothing that a client sends stops the service.
    3. It serves paths, not files.
    4. It is reachable before it says that it is ready.

Example: Service(corpus, index).answer([Asked("0", "fox")])
"""

import asyncio
import json
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hpt_megatron.errors import HptError, UserError
from hpt_megatron.search.batching import Batcher
from hpt_megatron.search.corpus import Corpus
from hpt_megatron.search.hit import Asked, Hit, WireError
from hpt_megatron.search.index import Bm25, Index
from hpt_megatron.search.wire.formats import WIRES, format_of

LOG = logging.getLogger(__name__)
LARGEST_BODY = 4 * 1024 * 1024
MOST_QUERIES = 2048
LONGEST_QUERY = 4096
MOST_HITS = 100
INDEX_FOLDER = ".index"


class Service:
    """Answers queries; without HTTP it is the embedded index of an agent."""

    def __init__(self, corpus: Corpus, index: Index, size: int = 64, wait_s: float = 0.02) -> None:
        self.corpus, self._index = corpus, index
        self._batcher: Batcher[Asked, list[Hit]] = Batcher(self._ranked, size, wait_s)

    @classmethod
    def open(cls, folder: Path, size: int = 64, wait_s: float = 0.02) -> "Service":
        """A corpus folder with its BM25 index."""
        corpus = Corpus.read(folder)
        return cls(corpus, Bm25.open(corpus, folder / INDEX_FOLDER), size, wait_s)

    def answer(self, asked: Sequence[Asked]) -> list[list[Hit]]:
        """Hits of each query, best first."""
        decks = [self.corpus.deck(one.deck) for one in asked]
        most = max((one.topk for one in asked), default=1)
        ranked = self._index.search([one.text for one in asked], min(most, MOST_HITS), decks)
        found = []
        for one, deck, pages in zip(asked, decks, ranked, strict=True):
            places = None if deck is None else {number: place for place, number in enumerate(deck)}
            found.append([self._hit(number, score, places) for number, score in pages[: one.topk]])
        return found

    def _hit(self, number: int, score: float, places: dict[int, int] | None) -> Hit:
        page = self.corpus.pages[number]
        position = number if places is None else places[number]
        return Hit(page.id, page.image, page.text, round(score, 6), number, position)

    async def _ranked(self, asked: Sequence[Asked]) -> list[list[Hit]]:
        return await asyncio.to_thread(self.answer, asked)

    async def ask(self, asked: Sequence[Asked]) -> dict[str, list[Hit]]:
        """The same, together with whoever else asks."""
        found = await asyncio.gather(*(self._batcher.ask(one) for one in asked))
        return {one.id: hits for one, hits in zip(asked, found, strict=True)}

    async def respond(self, method: str, params: Sequence[tuple[str, str]], data: bytes) -> tuple[int, Any]:
        """Status and JSON of a request."""
        if len(data) > LARGEST_BODY:
            return 413, {"error": f"more than {LARGEST_BODY} bytes"}
        try:
            body = json.loads(data) if method == "POST" else None
            wire = WIRES[format_of(method, body)]
            asked = wire.parse(params, body)
            if not asked:
                raise WireError("no queries")
            if len({one.id for one in asked}) != len(asked):
                raise WireError("a request_idx stands twice")
            if not all(_is_text(one.text) for one in asked):
                raise WireError("a query holds half of a surrogate pair, which is no text")
            if len(asked) > MOST_QUERIES or any(len(one.text) > LONGEST_QUERY or one.topk < 1 for one in asked):
                raise WireError(f"at most {MOST_QUERIES} queries of at most {LONGEST_QUERY} characters, topk 1 or more")
        except (WireError, ValueError, OverflowError, RecursionError) as error:
            return 400, {"error": str(error)[:200]}
        try:
            return 200, wire.reply(asked, await self.ask(asked))
        except HptError as error:  # of the encoder: it may pass
            LOG.warning("search: %s", error)
            return 503, {"error": str(error)[:200]}

    def health(self) -> dict[str, Any]:
        """What the client keys its cache by, and whoever looks wants to know."""
        return {"status": "ok", "pages": len(self.corpus.pages), "version": self.corpus.fingerprint}


def application(service: Service) -> Any:
    """An ASGI application."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def search(request: Request) -> JSONResponse:
        data = b""
        async for part in request.stream():
            data += part
            if len(data) > LARGEST_BODY:
                break
        status, told = await service.respond(request.method, request.query_params.multi_items(), data)
        return JSONResponse(told, status)

    async def health(request: Request) -> JSONResponse:
        return JSONResponse(service.health())

    return Starlette(routes=[Route("/search", search, methods=["GET", "POST"]), Route("/health", health)])


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 finds a free one. Who asks from now on is answered when `serve` runs."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError, OverflowError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen: {told}", where=f"{host}:{port}", mend="another --port or --host") from error


def serve(service: Service, listening: socket.socket) -> None:
    """Until it is interrupted."""
    import uvicorn

    settings = uvicorn.Config(application(service), log_level="warning", h11_max_incomplete_event_size=1 << 16)
    uvicorn.Server(settings).run(sockets=[listening])


def _is_text(text: str) -> bool:
    return text.isascii() or text == text.encode("utf-8", "replace").decode()


def open_service(folder: str, encoder: str | None = None, model: str = "") -> Service:
    """BM25, or an embedding index where an encoder is given."""
    if encoder is None:
        return Service.open(Path(folder))
    from hpt_megatron.search.embedding import Embedded, Encoder, need_faiss

    need_faiss()  # before the corpus is read
    corpus = Corpus.read(Path(folder))
    found = Embedded.open(corpus, Path(folder) / ".vectors", Encoder(encoder, model))
    return Service(corpus, cast(Index, found))
