"""The search client against real servers that are slow, wrong, out of order, malicious or dead."""

import asyncio
import threading

import pytest
from lookup_world import write_corpus
from loopback import dead_address, serving

from hpt_megatron.config.load import load
from hpt_megatron.errors import HptError
from hpt_megatron.rollout.search.breaker import Breaker
from hpt_megatron.rollout.search.client import RetrieverUnavailable, SearchClient
from hpt_megatron.rollout.search.settings import Retriever
from hpt_megatron.rollout.search.trust import UntrustedError, below
from hpt_megatron.search.hit import Query
from hpt_megatron.search.wire.formats import WIRES

pytestmark = pytest.mark.fast
QUICK = {"backoff_base_s": 0.01, "batch_wait_ms": 5, "connect_timeout_s": 9, "read_timeout_s": 9, "max_retries": 2}


def asked(client, *queries):
    """The answers to queries asked at once."""

    async def work():
        found = await asyncio.gather(*(client.search(query) for query in queries))
        await client.close()
        return found

    return asyncio.run(work())


def page(key):
    return f"deck/{key}.png"


def client_of(url, corpus, **more):
    return SearchClient(Retriever(url=f"{url}/search", corpus_root=str(corpus), **{**QUICK, **more}))


def vrag(method, path, params, body):
    return 200, [[{"idx": 0, "image_file": page(text)}] for _, text in params]


def test_the_settings_of_a_run_reach_the_client_and_its_defaults_are_those_of_the_files():
    assert Retriever.of(load([]).run.rollout) == Retriever()
    given = {"connect_timeout_s": 1, "backoff_s": 0.25, "batch_wait_ms": 7, "cache_size": 3, "health_path": "/alive"}
    run = load([f"rollout.search_{key}={value}" for key, value in given.items()]).run
    told = Retriever.of(run.rollout)
    assert (told.connect_timeout_s, told.backoff_base_s, told.batch_wait_ms) == (1, 0.25, 7)
    assert (told.cache_size, told.health_path) == (3, "/alive")


def test_queries_asked_at_once_are_one_request_and_each_is_asked_once(corpus):
    seen = []

    def answer(method, path, params, body):
        seen.append([text for _, text in params])
        return vrag(method, path, params, body)

    with serving(answer) as url:
        client = client_of(url, corpus)
        found = asked(client, *(Query(key) for key in ("k01", "k02", "k01", "k03", "k02")))
    assert seen == [["k01", "k02", "k03"]]
    assert [one.hits[0].page for one in found] == ["deck/k01", "deck/k02", "deck/k01", "deck/k03", "deck/k02"]
    assert (client.stats.queries, client.stats.cached, client.stats.requests) == (5, 2, 1)


def test_a_success_is_kept_and_a_failure_is_not(corpus):
    count = []

    def answer(method, path, params, body):
        count.append(1)
        return (400, b"no") if len(count) == 1 else vrag(method, path, params, body)

    async def work(client):
        told = [await client.search(Query("k01")) for _ in range(3)]
        await client.close()
        return told

    with serving(answer) as url:
        first, second, third = asyncio.run(work(client_of(url, corpus)))
    assert "status 400" in first.failed
    assert (second.failed, second, len(count)) == ("", third, 2)


@pytest.mark.parametrize("protocol", ["ddai_post", "position"])
def test_answers_in_any_order_are_matched_by_their_id(corpus, protocol):
    def answer(method, path, params, body):
        if protocol == "ddai_post":
            told = [
                {"request_idx": e["request_idx"], "results": [{"idx": 1, "image_file": page(e["query"])}]} for e in body
            ]
        else:
            told = [{"request_idx": e["request_idx"], "results": [{"position": int(e["query"][1:])}]} for e in body]
        return 200, told[::-1]

    pages = tuple(page(f"k0{i}") for i in range(8))
    with serving(answer) as url:
        keys = ("k05", "k01", "k03")
        found = asked(client_of(url, corpus, protocol=protocol), *(Query(key, 4, pages) for key in keys))
    assert [one.hits[0].page for one in found] == [f"deck/{key}" for key in keys]


def test_our_servers_get_answers_are_matched_by_their_query(corpus):
    def answer(method, path, params, body):
        return 200, [[{"idx": 0, "image_file": page(text), "query": text}] for _, text in params][::-1]

    with serving(answer) as url:
        found = asked(client_of(url, corpus), Query("k05"), Query("k01"))
    assert [one.hits[0].page for one in found] == ["deck/k05", "deck/k01"]


def test_a_missing_answer_is_a_failure_of_its_query_alone(corpus):
    def answer(method, path, params, body):
        return 200, [
            {"request_idx": entry["request_idx"], "results": [{"idx": 1, "image_file": page(entry["query"])}]}
            for entry in body
            if entry["query"] != "k02"
        ]

    with serving(answer) as url:
        found = asked(client_of(url, corpus, protocol="ddai_post"), Query("k01"), Query("k02"), Query("k03"))
    assert [one.failed for one in found] == ["", "its result is missing from the answer", ""]


def test_d10_a_server_that_is_busy_or_breaks_off_is_asked_again_and_then_given_up(corpus):
    for failure in ((500, b""), (429, b""), None):
        count = []

        def answer(method, path, params, body, failure=failure, count=count):
            count.append(1)
            return failure if len(count) <= 2 else vrag(method, path, params, body)

        with serving(answer) as url:
            client = client_of(url, corpus)
            (found,) = asked(client, Query("k01"))
        assert (found.failed, len(count), client.stats.retries) == ("", 3, 2)
        with serving(lambda *_, failure=failure: failure) as url:
            (found,) = asked(client_of(url, corpus), Query("k01"))
        assert found.failed


def test_d10_a_slow_server_costs_no_more_than_the_deadline(corpus):
    stop = threading.Event()

    def answer(*_):
        stop.wait(60)
        return 200, []

    with serving(answer) as url:
        client = client_of(url, corpus, total_deadline_s=0.5, read_timeout_s=9)
        found = asked(client, Query("k01"), Query("k02"))
        assert not stop.is_set()
        stop.set()
    assert {one.failed for one in found} == {"no answer within 0.5 s"}


@pytest.mark.parametrize(
    ("status", "what", "why"),
    [
        (404, b"not here", "status 404: b'not here'"),
        (200, b"<html>" + b"x" * 999, "malformed answer"),
        (200, {"results": 1}, "malformed answer"),
        (200, [[{"image_file": 7}]], "image_file is not a text"),
        (200, [], "0 results for 1 queries"),
        (200, b"[" * 100_000, "malformed answer"),
        (302, b"", "status 302"),
    ],
)
def test_what_is_wrong_is_not_tried_again_and_told_in_few_words(corpus, status, what, why):
    count = []

    def answer(*_):
        count.append(1)
        return status, what

    with serving(answer) as url:
        (found,) = asked(client_of(url, corpus), Query("k01"))
    assert why in found.failed
    assert len(found.failed) < 600
    assert len(count) == 1


def test_an_endless_answer_is_cut_off(corpus, monkeypatch):
    monkeypatch.setattr("hpt_megatron.rollout.search.client.LARGEST_ANSWER", 1000)
    with serving(lambda *_: (200, b"[" + b" " * 5_000_000 + b"]")) as url:
        (found,) = asked(client_of(url, corpus), Query("k01"))
    assert found.failed == "an answer of more than 1000 bytes"


def test_paths_out_of_the_corpus_are_not_followed(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    (corpus.parent / "secret.png").write_bytes((corpus / page("k01")).read_bytes())
    (corpus / "link.png").symlink_to(corpus.parent / "secret.png")
    bad = ["../secret.png", str(corpus.parent / "secret.png"), "/etc/passwd", "deck/../../secret.png", "link.png"]
    bad += [
        "deck/k01.txt",
        "http://127.0.0.1/k01.png",
        "file:///etc/k.png",
        "deck\\..\\..\\secret.png",
        "",
        "a\x00.png",
    ]
    told = [{"idx": i, "image_file": path} for i, path in enumerate([*bad, str(corpus / page("k03")), page("k02")])]
    with serving(lambda *_: (200, [told])) as url:
        client = client_of(url, corpus, topk=50)
        (found,) = asked(client, Query("k01"))
    assert [(hit.page, hit.image) for hit in found.hits if hit.image] == [
        ("deck/k03", "deck/k03.png"),
        ("deck/k02", "deck/k02.png"),
    ]
    assert client.stats.untrusted == len(bad) - 1  # the empty path is no image at all
    assert client.source(found.hits[-1]).read().startswith(b"\x89PNG")


def test_a_path_is_relative_to_the_root_also_through_a_link_to_the_root(corpus, tmp_path):
    (tmp_path / "alias").symlink_to(corpus)
    assert str(below(tmp_path / "alias", page("k01"))) == page("k01")
    with pytest.raises(UntrustedError):
        below(corpus, "x" * 2000 + ".png")


def test_positions_outside_the_deck_are_no_pages(corpus):
    told = [{"request_idx": 0, "results": [{"position": place} for place in (-1, 8, 99, 3)]}]
    with serving(lambda *_: (200, told)) as url:
        client = client_of(url, corpus, protocol="position")
        (found,) = asked(client, Query("k01", 0, tuple(page(f"k0{i}") for i in range(8))))
    assert ([hit.page for hit in found.hits], client.stats.untrusted) == (["deck/k03"], 3)


def test_long_queries_are_spread_over_addresses_below_eight_kilobytes(corpus):
    sizes = []

    def answer(method, path, params, body):
        sizes.append(sum(len(text) for _, text in params))
        return vrag(method, path, params, body)

    with serving(answer) as url:
        found = asked(client_of(url, corpus), *(Query(f"{i} " + "word " * 100) for i in range(40)))
    assert len(sizes) > 2
    assert max(sizes) < 8000
    assert not any(one.failed for one in found)


def test_a_dead_server_is_left_alone_for_a_while_and_found_again_by_its_health(corpus):
    calls, alive = [], []

    def answer(method, path, params, body):
        calls.append(path)
        if not alive:
            return 500, b""
        return (200, {"version": "2"}) if path == "/health" else vrag(method, path, params, body)

    async def work(client):
        for i in range(4):
            await client.search(Query(f"a{i}"))
        failed = len(calls)
        alone = await client.search(Query("b"))
        assert len(calls) == failed, "an open breaker calls nobody"
        await asyncio.sleep(0.15)
        still = await client.search(Query("c"))
        assert calls[failed:] == ["/health"]
        alive.append(1)
        await asyncio.sleep(0.15)
        again = await client.search(Query("k01"))
        await client.close()
        return alone, still, again

    with serving(answer) as url:
        client = client_of(url, corpus, max_retries=0, breaker_failures=4, cool_down_s=0.1)
        alone, still, again = asyncio.run(work(client))
    assert "left alone" in alone.failed
    assert "left alone" in still.failed
    assert again.hits[0].page == "deck/k01"


def test_a_request_that_fails_counts_once_however_many_queries_it_carries(corpus):
    calls = []

    def answer(method, path, params, body):
        calls.append(len(params))
        return 400, b"no"

    async def work(client):
        for part in range(3):
            await asyncio.gather(*(client.search(Query(f"{part}-{i}")) for i in range(20)))
        await client.close()

    with serving(answer) as url:
        client = client_of(url, corpus, breaker_failures=3)
        asyncio.run(work(client))
    assert calls == [20, 20, 20]
    assert client._breaker.in_a_row == 3
    missing = [{"request_idx": i, "results": []} for i in range(10)]
    with serving(lambda *_: (200, missing)) as url:  # the server answers; that some results lack is not for the breaker
        client = client_of(url, corpus, protocol="ddai_post", breaker_failures=1)
        found = asked(client, *(Query(str(i)) for i in range(20)))
    assert (sum(bool(one.failed) for one in found), client._breaker.until) == (10, None)


@pytest.mark.parametrize("protocol", WIRES)
def test_half_of_a_surrogate_pair_in_a_query_fails_nobody(corpus, protocol):
    """What cannot be sent is asked as a question mark, and the others of its batch are answered."""
    seen = []

    def answer(method, path, params, body):
        texts = [text for _, text in params] if method == "GET" else body
        texts = body["queries"] if protocol == "search_r1" else texts
        seen.extend(entry if isinstance(entry, str) else entry["query"] for entry in texts)
        return 500, b""

    with serving(answer) as url:
        client = client_of(url, corpus, protocol=protocol, max_retries=0)
        found = asked(client, Query("k01"), Query("a\ud800b", "row\udfff", ("p\ud800.png",), "deck\udfff"))
    assert [one.failed for one in found] == ["status 500"] * 2
    assert seen == ["k01", "a?b"]


def test_the_breaker_lets_one_probe_through_at_a_time():
    breaker = Breaker(most=2, cool_down_s=10)
    assert breaker.ask(0) == "yes"
    breaker.failed(0)
    assert breaker.ask(1) == "yes"
    breaker.failed(1)
    assert (breaker.ask(2), breaker.ask(11), breaker.ask(11)) == ("no", "probe", "no")
    breaker.failed(11)
    assert (breaker.ask(12), breaker.ask(21)) == ("no", "probe")
    breaker.worked()
    assert (breaker.ask(21), breaker.in_a_row) == ("yes", 0)


def test_too_many_failures_of_a_step_end_the_run_with_the_address_and_the_counts(corpus):
    client = SearchClient(Retriever(url=dead_address(), corpus_root=str(corpus), **{**QUICK, "max_retries": 0}))
    asked(client, *(Query(str(i)) for i in range(4)))
    with pytest.raises(RetrieverUnavailable, match=r"127\.0\.0\.1.*4 of 4 searches failed, the last one: .*Connect"):
        client.check_budget()
    client.begin_step()
    client.check_budget()


def test_a_run_does_not_start_without_its_search_service_unless_it_may(corpus):
    quick = {**QUICK, "max_retries": 0}
    with pytest.raises(RetrieverUnavailable, match="does not answer"):
        asyncio.run(SearchClient(Retriever(url=dead_address(), corpus_root=str(corpus), **quick)).probe())
    asyncio.run(
        SearchClient(Retriever(url=dead_address(), corpus_root=str(corpus), allow_offline=True, **quick)).probe()
    )
    with serving(vrag) as url:
        asyncio.run(client_of(url, corpus).probe())


def test_a_client_is_never_shared_between_two_event_loops(corpus):
    """Shared, it would hang: its connections belong to the first loop."""
    with serving(vrag) as url:
        client = client_of(url, corpus)

        async def one():
            return await client.search(Query("k01"))

        assert not asyncio.run(one()).failed
        client._kept.clear()
        with pytest.raises(HptError, match="two event loops"):
            asyncio.run(one())


def test_latencies_are_told_as_percentiles(corpus):
    with serving(vrag) as url:
        client = client_of(url, corpus)
        asked(client, *(Query(f"k0{i}") for i in range(8)))
    told = client.stats.metrics()
    assert 0 < told["p50_s"] <= told["p95_s"] <= told["p99_s"] <= told["max_s"]
    assert (told["queries"], told["failed"]) == (8.0, 0.0)
