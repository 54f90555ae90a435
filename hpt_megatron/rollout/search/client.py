"""The agent's search client: queries of many trajectories, batched, kept, retried, and held against a budget of
failures.

    search(query) -> cache -> the same query in flight -> breaker -> batch -> request with retries -> hits by id ->
    trusted pages

Decision: it never raises for what a server does. A query that failed is an answer that says so; what becomes of the
trajectory is for the agent's rules, and what becomes of the run for `check_budget`, which the driver asks when all is
done.

Invariants
    1. Results are matched by id where the format has one, and never given to a query that did not ask for them.
    2. A query is asked once however many trajectories ask it at a time; only successes are kept.
    3. Nothing takes longer than `total_deadline_s`; connect errors, timeouts, 429 and 5xx are tried again, nothing
       else is. The breaker counts requests, with all their tries as one, however many queries are in them.
    4. One client belongs to one event loop.

Example: found = await client.search(Query("red fox")); found.hits, found.failed
"""

import asyncio
import json
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from hpt_megatron.data.record import Source
from hpt_megatron.errors import HptError
from hpt_megatron.percentile import percentile
from hpt_megatron.protocol.pages import canonical
from hpt_megatron.rollout.search.breaker import Breaker
from hpt_megatron.rollout.search.settings import Retriever
from hpt_megatron.rollout.search.trust import UntrustedError, below
from hpt_megatron.search.batching import Batcher
from hpt_megatron.search.hit import Asked, Call, Hit, Query, WireError
from hpt_megatron.search.service import Service
from hpt_megatron.search.wire.formats import WIRES

LOG = logging.getLogger(__name__)
LARGEST_ANSWER = 32 * 1024 * 1024


class RetrieverUnavailable(HptError):  # noqa: N818  (the name of the specification)
    """Too many searches of a step failed: a checkpoint is saved, then the run ends with this."""


@dataclass(frozen=True)
class Failure:
    """Why a request brought nothing; `again`: it may pass."""

    why: str
    again: bool = False


@dataclass(frozen=True)
class Found:
    """What a query brought; `failed` says why there is nothing."""

    hits: tuple[Hit, ...] = ()
    failed: str = ""


@dataclass
class Stats:
    """Counted since the last `begin_step`."""

    queries: int = 0
    cached: int = 0
    failed: int = 0
    untrusted: int = 0
    unreadable: int = 0
    requests: int = 0
    retries: int = 0
    last_error: str = ""
    latencies_s: list[float] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """For the log."""
        told = {name: float(getattr(self, name)) for name in ("queries", "cached", "failed", "untrusted", "unreadable")}
        told |= {"requests": float(self.requests), "retries": float(self.retries)}
        slow = sorted(self.latencies_s)
        for percent in (50, 95, 99):
            told[f"p{percent}_s"] = percentile(slow, percent) if slow else 0.0
        told["max_s"] = slow[-1] if slow else 0.0
        return told


class SearchClient:
    """See the module."""

    def __init__(self, settings: Retriever) -> None:
        self.settings, self.stats = settings, Stats()
        self._root = Path(settings.corpus_root)
        self._breaker = Breaker(settings.breaker_failures, settings.cool_down_s)
        self._batcher: Batcher[Query, Found] = Batcher(self._ask, settings.batch_size, settings.batch_wait_ms / 1000)
        self._kept: OrderedDict[Any, Found] = OrderedDict()
        self._flying: dict[Any, asyncio.Future[Found]] = {}
        self._numbers = iter(range(1 << 62))
        self._rng = random.Random(0)  # of the jitter alone
        self._http: httpx.AsyncClient | None = None
        self._local = Service.open(self._root) if settings.protocol == "inproc" else None
        self._version = ""
        self._limit = asyncio.Semaphore(settings.max_concurrency)

    async def search(self, query: Query) -> Found:
        """The hits of one query, only those that can be shown."""
        self.stats.queries += 1
        found = await self._kept_or_asked(_sendable(query))
        if found.failed:
            self.stats.failed += 1
            self.stats.last_error = found.failed
        return found

    async def _kept_or_asked(self, query: Query) -> Found:
        key = (self._version, query, self.settings.topk)
        if key in self._kept:
            self.stats.cached += 1
            self._kept.move_to_end(key)
            return self._kept[key]
        if key in self._flying:
            self.stats.cached += 1
            return await asyncio.shield(self._flying[key])
        self._flying[key] = asyncio.ensure_future(self._searched(query))
        try:
            found = await asyncio.shield(self._flying[key])
        finally:
            self._flying.pop(key, None)
        if not found.failed and self.settings.cache_size:
            self._kept[key] = found
            while len(self._kept) > self.settings.cache_size:
                self._kept.popitem(last=False)
        return found

    async def _searched(self, query: Query) -> Found:
        start = time.monotonic()
        asked = self._breaker.ask(start)
        if asked == "probe" and not await self.healthy():
            self._breaker.failed(time.monotonic())
            asked = "no"
        if asked == "no":
            found = Found(failed="the server failed too often and is left alone for a while")
        else:
            try:
                async with asyncio.timeout(self.settings.total_deadline_s):
                    found = await self._batcher.ask(query)
            except TimeoutError:
                found = Found(failed=f"no answer within {self.settings.total_deadline_s} s")
        self.stats.latencies_s.append(time.monotonic() - start)
        return found

    async def _ask(self, queries: Sequence[Query]) -> list[Found]:
        """A batch."""
        topk = self.settings.topk
        asked = [Asked(str(next(self._numbers)), query.text, query.deck, topk, query.row) for query in queries]
        found: dict[str, list[Hit]] = {}
        failed: dict[str, str] = {}
        if self._local is not None:
            found = await self._local.ask(asked)
        else:
            calls = WIRES[self.settings.protocol].calls(asked)
            for call, answer in zip(calls, await asyncio.gather(*map(self._call, calls)), strict=True):
                if isinstance(answer, Failure):
                    failed |= dict.fromkeys((one.id for one in call.asked), answer.why)
                else:
                    found |= answer
        return [
            Found(tuple(self._trusted(found[one.id][:topk], query)))
            if one.id in found
            else Found(failed=failed.get(one.id, "its result is missing from the answer"))
            for one, query in zip(asked, queries, strict=True)
        ]

    async def _call(self, call: Call) -> dict[str, list[Hit]] | Failure:
        """The hits of one request, or why there are none; the breaker hears of it once."""
        try:
            async with asyncio.timeout(self.settings.total_deadline_s):
                answer = await self._tried(call)
        except TimeoutError:
            answer = Failure(f"no answer within {self.settings.total_deadline_s} s")
        if isinstance(answer, Failure):
            self._breaker.failed(time.monotonic())
        else:
            self._breaker.worked()
        return answer

    async def _tried(self, call: Call) -> dict[str, list[Hit]] | Failure:
        """As often as it may be."""
        deadline = time.monotonic() + self.settings.total_deadline_s
        attempt = 0
        while True:
            answer = await self._once(call)
            if not isinstance(answer, Failure):
                return answer
            wait = self.settings.backoff_base_s * 2**attempt * self._rng.uniform(0.75, 1.25)
            attempt += 1
            if not answer.again or attempt > self.settings.max_retries or time.monotonic() + wait > deadline:
                LOG.warning("search: %s; tried %d times", answer.why, attempt)
                return answer
            self.stats.retries += 1
            await asyncio.sleep(wait)

    async def _once(self, call: Call) -> dict[str, list[Hit]] | Failure:
        """One try."""
        self.stats.requests += 1
        url = str(self.settings.url)
        try:
            async with self._limit:
                status, data = await self._fetched(call, url)
        except httpx.TransportError as error:
            return Failure(f"{type(error).__name__} {error}".strip(), again=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Failure(f"{type(error).__name__} {error}")
        if status == 429 or status >= 500:
            return Failure(f"status {status}", again=True)
        if status != 200:
            return Failure(f"status {status}: {data[:200]!r}")
        if len(data) > LARGEST_ANSWER:
            return Failure(f"an answer of more than {LARGEST_ANSWER} bytes")
        try:
            return WIRES[self.settings.protocol].read(json.loads(data), call.asked)
        except (WireError, ValueError, OverflowError, RecursionError) as error:
            return Failure(f"malformed answer ({error}): {data[:200]!r}")

    async def _fetched(self, call: Call, url: str) -> tuple[int, bytes]:
        """Status and body, of which no more is read than may be."""
        data = bytearray()
        params: Any = list(call.params) or None
        async with self._client().stream(call.method, url, params=params, json=call.body) as answer:
            async for part in answer.aiter_bytes():
                data += part
                if len(data) > LARGEST_ANSWER:
                    break
        return answer.status_code, bytes(data)

    def _trusted(self, hits: Sequence[Hit], query: Query) -> list[Hit]:
        """With canonical ids and paths below the root; others are left out and counted."""
        found = []
        for hit in hits:
            image = hit.image
            if hit.position is not None and not image and not hit.text:
                image = query.pages[hit.position] if 0 <= hit.position < len(query.pages) else ""
                if not image:
                    self.stats.untrusted += 1
                    continue
            if not image:
                found.append(replace(hit, page=canonical(hit.page)))
                continue
            try:
                path = below(self._root, image)
            except UntrustedError as error:
                self.stats.untrusted += 1
                LOG.warning("search: a path is not followed: %r", str(error))
                continue
            found.append(replace(hit, image=str(path), page=canonical(str(path))))
        return found

    def source(self, hit: Hit) -> Source:
        """The image of a trusted hit."""
        return Source(path=str(self._root / hit.image))

    def unreadable(self, hit: Hit) -> None:
        """Counts a page whose image could not be used."""
        self.stats.unreadable += 1

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            wait = httpx.Timeout(self.settings.read_timeout_s, connect=self.settings.connect_timeout_s)
            most = httpx.Limits(max_connections=self.settings.max_concurrency)
            self._http = httpx.AsyncClient(timeout=wait, limits=most, trust_env=False, follow_redirects=False)
        return self._http

    async def healthy(self) -> bool:
        """Whether the server says so; also takes the version of its corpus, which keys the cache."""
        if self._local is not None:
            return True
        try:
            answer = await self._client().get(_beside(str(self.settings.url), self.settings.health_path))
            if answer.status_code == 200:
                told = answer.json()
                self._version = str(told.get("version", "")) if isinstance(told, dict) else ""
            return answer.status_code == 200
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError):
            return False

    async def probe(self) -> None:
        """Before a run: one health check and one query, or a refusal, unless the run may start without."""
        await self.healthy()
        found = await self.search(Query("start"))
        self.begin_step()
        if found.failed and not self.settings.allow_offline:
            what = f"the search service does not answer: {found.failed}"
            mend = "start it (launch/search_server.py), or set rollout.allow_offline_retriever=true"
            raise RetrieverUnavailable(what, where=str(self.settings.url), mend=mend)

    def begin_step(self) -> None:
        """Counts from here."""
        self.stats = Stats()

    def check_budget(self) -> None:
        """Refuses to go on where too many queries of the step failed."""
        stats = self.stats
        if stats.queries and stats.failed / stats.queries > self.settings.failure_budget:
            what = f"{stats.failed} of {stats.queries} searches failed, the last one: {stats.last_error}"
            mend = f"more than failure_budget {self.settings.failure_budget}; the service has to answer"
            raise RetrieverUnavailable(what, where=str(self.settings.url), mend=mend)

    async def close(self) -> None:
        """Gives its connections back."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None


def _sendable(query: Query) -> Query:
    """A policy may say half of a surrogate pair, which no request can carry."""

    def text(said: str) -> str:
        return said if said.isascii() else said.encode("utf-8", "replace").decode()

    row = text(query.row) if isinstance(query.row, str) else query.row
    deck = None if query.deck is None else text(query.deck)
    return replace(query, text=text(query.text), row=row, deck=deck)


def _beside(url: str, path: str) -> str:
    return urlsplit(url)._replace(path=path, query="", fragment="").geturl()
