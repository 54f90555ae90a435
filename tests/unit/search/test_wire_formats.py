"""Each format carries queries there and hits back, between our client's side and our server's side."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.search.hit import Asked, Hit, WireError
from hpt_megatron.search.wire.formats import WIRES, format_of

pytestmark = pytest.mark.fast
TEXTS = st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=6, unique=True)


@pytest.mark.parametrize("name", WIRES)
@settings(max_examples=25)
@given(TEXTS, st.randoms())
def test_what_is_asked_comes_back_to_who_asked_also_in_another_order(name, texts, draw):
    wire = WIRES[name]
    asked = [Asked(f"id{i}", text, topk=3) for i, text in enumerate(texts)]
    for call in wire.calls(asked):
        assert format_of(call.method, call.body) == name
        parsed = wire.parse(call.params, call.body)
        assert [one.text for one in parsed] == [one.text for one in call.asked]
        hits = {one.id: [Hit("p", f"{one.text}.png", "t", 1.5, 4, len(one.text))] for one in parsed}
        told = wire.reply(parsed, hits)
        if name == "search_r1":
            order = draw.sample(range(len(parsed)), len(parsed))
            told = {key: [part[i] for i in order] for key, part in told.items()}
        else:
            draw.shuffle(told)
        found = wire.read(told, call.asked)
        for one in call.asked:
            (hit,) = found[one.id]
            assert hit.score == 1.5
            assert hit.position == len(one.text) if name == "position" else hit.image == f"{one.text}.png"


@pytest.mark.parametrize("name", WIRES)
def test_queries_without_hits_have_none(name):
    wire = WIRES[name]
    asked = [Asked("a", "one"), Asked("b", "two")]
    (call,) = wire.calls(asked)
    parsed = wire.parse(call.params, call.body)
    first = [Hit("p", "one.png", "t", 1.0, 4, 3)]
    found = wire.read(wire.reply(parsed, {parsed[0].id: first, parsed[1].id: []}), call.asked)
    assert (len(found["a"]), found["b"]) == (1, [])


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize(
    "payload", [None, 7, "x", {}, [7], [[7]], {"result": 7}, [{"request_idx": "a"}], {"result": [[7]]}]
)
def test_what_is_malformed_is_said_to_be_so(name, payload):
    with pytest.raises(WireError):
        WIRES[name].read(payload, [Asked("a", "one")])


KEYS = st.sampled_from(
    ["query", "queries", "result", "results", "request_idx", "image_file", "score", "document", "position"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["one", "two", "a.png"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(JSON)
def test_whatever_a_server_or_a_client_sends_is_read_or_refused(payload):
    """What the callers catch, and nothing else; an answer names no query that was not asked."""
    asked = [Asked("a", "one"), Asked("b", "two")]
    for wire in WIRES.values():
        with contextlib.suppress(WireError, ValueError, OverflowError):
            assert set(wire.read(payload, asked)) <= {"a", "b"}
        with contextlib.suppress(WireError, ValueError, OverflowError):
            assert all(isinstance(one.text, str) for one in wire.parse([], payload))


@pytest.mark.parametrize("name", WIRES)
def test_two_who_ask_the_same_words_both_get_the_answer(name):
    """They may differ in what the words of a format do not carry, such as their row."""
    wire = WIRES[name]
    asked = [Asked("a", "one", row=1), Asked("b", "two"), Asked("c", "one", row=2), Asked("d", "")]
    (call,) = wire.calls(asked)
    parsed = wire.parse(call.params, [{**e, "deck": "d"} for e in call.body] if name == "position" else call.body)
    hits = {one.id: [Hit("p", f"{one.text}.png", "t", 1.0, 4, len(one.text))] * (one.text != "two") for one in parsed}
    found = wire.read(wire.reply(parsed, hits)[::-1] if name == "vrag_get" else wire.reply(parsed, hits), call.asked)
    assert {name: len(own) for name, own in found.items()} == {"a": 1, "b": 0, "c": 1, "d": 1}
    assert found["a"] == found["c"] != found["d"]


def test_formats_without_ids_and_echo_need_as_many_answers_as_questions():
    asked = [Asked("a", "one"), Asked("b", "two")]
    with pytest.raises(WireError, match="1 results for 2 queries"):
        WIRES["vrag_get"].read([[]], asked)
    with pytest.raises(WireError, match="1 results for 2 queries"):
        WIRES["search_r1"].read({"result": [[]]}, asked)
    found = WIRES["search_r1"].read({"result": [[{"document": {"contents": "x"}, "score": 1}], []]}, asked)
    assert found["a"][0].text == "x"


def test_a_request_of_no_format_is_refused():
    with pytest.raises(WireError, match="a list of queries"):
        format_of("POST", "text")
    asked = [{"query": "a", "request_idx": 0}, {"query": "b", "request_idx": 1, "row_index": 4}]
    for mixed in (asked, asked[::-1]):
        with pytest.raises(WireError, match="some of the queries have a row_index"):
            format_of("POST", mixed)


def test_a_deck_is_named_for_our_server_and_a_row_number_alone_is_refused_by_it():
    """The server has never seen the rows: row 17 of a data set is not its seventeenth deck."""
    wire = WIRES["position"]
    (call,) = wire.calls([Asked("a", "one", "decks/plan", row=17)])
    assert call.body == [{"query": "one", "request_idx": 0, "row_index": 17, "deck": "decks/plan"}]
    assert wire.parse((), call.body) == [Asked("0", "one", "decks/plan")]
    (call,) = wire.calls([Asked("a", "one", row=17)])
    with pytest.raises(WireError, match="send it as `deck`"):
        wire.parse((), call.body)
