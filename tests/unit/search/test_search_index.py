"""The embedded index: what it finds, and that it is used again only for the same pages."""

import asyncio
import json
import sys

import numpy as np
import pytest

from hpt_megatron.errors import HptError, UserError
from hpt_megatron.search.corpus import Corpus
from hpt_megatron.search.hit import Asked
from hpt_megatron.search.index import KEY, Bm25, best
from hpt_megatron.search.service import Service, open_service

PAGES = [
    ("a/1", "red fox k07"),
    ("a/2", "blue fox"),
    ("b/1", "Fox fox FOX 7"),
    ("b/2", "\u00c9t\u00e9 sur la page"),
    ("c", ""),
]


def written(folder, pages=PAGES):
    lines = [json.dumps({"id": name, "image": f"{name}.png", "text": text}) for name, text in pages]
    (folder / "pages.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def names(service, *asked):
    return [[hit.page for hit in hits] for hits in service.answer(asked)]


def test_words_are_found_without_case_in_any_language_down_to_one_letter(tmp_path):
    service = Service.open(written(tmp_path))
    found = names(
        service, Asked("0", "K07"), Asked("1", "\u00e9t\u00e9"), Asked("2", "7"), Asked("3", "nowhere"), Asked("4", "")
    )
    assert found == [["a/1"], ["b/2"], ["b/1"], [], []]
    assert names(service, Asked("0", "fox"))[0][0] == "b/1"


def test_a_deck_is_searched_alone_and_places_count_in_it(tmp_path):
    service = Service.open(written(tmp_path))
    one, other, unknown = service.answer([Asked("0", "fox", "a"), Asked("1", "fox", "b"), Asked("2", "fox", "z")])
    assert sorted((hit.page, hit.position) for hit in one) == [("a/1", 0), ("a/2", 1)]
    assert [(hit.page, hit.position) for hit in other] == [("b/1", 0)]
    assert unknown == []


def test_a_page_belongs_to_the_deck_that_its_line_names_and_a_deck_keeps_the_order_of_the_file(tmp_path):
    lines = [{"id": f"a/plan_{number}", "text": "fox " * number, "deck": "a/plan"} for number in (1, 2, 10)]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [{"id": "a/other"}, *lines]))
    (found,) = Service.open(tmp_path).answer([Asked("0", "fox", "a/plan")])
    assert {hit.page: hit.position for hit in found} == {"a/plan_1": 0, "a/plan_2": 1, "a/plan_10": 2}


def test_no_more_hits_than_asked_for(tmp_path):
    assert len(names(Service.open(written(tmp_path)), Asked("0", "fox", topk=2))[0]) == 2


def test_an_index_is_used_again_until_the_pages_change(tmp_path):
    corpus = Corpus.read(written(tmp_path))
    assert not Bm25.open(corpus, tmp_path / "index").reused
    again = Bm25.open(corpus, tmp_path / "index")
    assert again.reused
    assert again.search(["k07"], 5, [None]) == Bm25.open(corpus, tmp_path / "other").search(["k07"], 5, [None])
    changed = Corpus.read(written(tmp_path, [*PAGES, ("d", "k07 k07")]))
    fresh = Bm25.open(changed, tmp_path / "index")
    assert not fresh.reused
    assert len(fresh.search(["k07"], 5, [None])[0]) == 2


def test_an_index_that_was_not_finished_is_built_again_and_holds_no_pickle(tmp_path):
    corpus = Corpus.read(written(tmp_path))
    Bm25.open(corpus, tmp_path / "index")
    (tmp_path / "index" / KEY).unlink()
    assert not Bm25.open(corpus, tmp_path / "index").reused
    assert {path.suffix for path in (tmp_path / "index").rglob("*") if path.is_file()} == {".npy", ".json"}


def test_a_damaged_index_is_built_again_with_a_warning(tmp_path, caplog):
    corpus, folder = Corpus.read(written(tmp_path)), tmp_path / "index"
    whole = Bm25.open(corpus, folder).search(["fox"], 5, [None])
    files = sorted((folder / "bm25").iterdir())
    assert len(files) > 3
    for path in files:
        for content in (b"", b"[[[", b"{}", None):
            path.write_bytes(content) if content is not None else path.unlink()
            again = Bm25.open(corpus, folder)
            assert again.search(["fox"], 5, [None]) == whole
            assert Bm25.open(corpus, folder).reused
    assert "is damaged and built again" in caplog.text
    assert "\n" not in caplog.records[0].getMessage()


def test_pages_without_text_and_a_folder_that_cannot_be_written_are_one_line(tmp_path):
    corpus = Corpus.read(written(tmp_path, [("a", ""), ("b", "- ?")]))
    with pytest.raises(UserError, match="no page has any text"):
        Bm25.open(corpus, tmp_path / "index")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the index cannot be written"):
        Bm25.open(Corpus.read(written(tmp_path)), tmp_path / "file" / "index")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ([{"query": "a", "request_idx": 1}, {"query": "b", "request_idx": 1}], "a request_idx stands twice"),
        ([{"query": "a", "request_idx": 1, "row_index": "a"}] * 2, "a request_idx stands twice"),
        ([{"query": "\ud800", "request_idx": 1}], "half of a surrogate pair"),
        ({"queries": ["fox", "fox \udfff"]}, "half of a surrogate pair"),
    ],
)
def test_a_request_that_could_not_be_answered_rightly_is_refused(tmp_path, body, why):
    service = Service.open(written(tmp_path, [*PAGES, ("\ud800", "fox \ud800")]))
    status, told = asyncio.run(service.respond("POST", (), json.dumps(body).encode()))
    assert (status, why in told["error"]) == (400, True)
    status, told = asyncio.run(service.respond("POST", (), b'{"queries": ["fox"]}'))
    assert status == 200
    assert json.dumps(told, ensure_ascii=False).encode()  # what a page holds can be sent


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no page"),
        ("{", "pages.jsonl:1: is not a page"),
        ('{"id": "a"}\n[1]', "pages.jsonl:2: is not a page"),
        ('{"id": 3, "image": "a", "text": "b"}', "all of them text"),
        ('{"id": "a", "deck": 3}', "pages.jsonl:1: the deck of a page is a text"),
        ('{"id": "a"}\n{"id": "b"}\n{"id": "a"}', "page a stands twice"),
    ],
)
def test_a_file_that_is_no_corpus_is_told_with_its_line(tmp_path, text, why):
    (tmp_path / "pages.jsonl").write_text(text)
    with pytest.raises(UserError, match=why):
        Corpus.read(tmp_path)


def test_an_index_that_cannot_answer_now_is_status_503_in_one_line(tmp_path):
    class Away:
        def search(self, texts, topk, among):
            raise HptError("gives no embeddings", where="http://encoder")

    service = Service(Corpus.read(written(tmp_path)), Away())
    found = asyncio.run(service.respond("POST", (), b'{"queries": ["fox"]}'))
    assert found == (503, {"error": "http://encoder: gives no embeddings"})


def test_a_folder_without_pages_says_how_to_make_them(tmp_path):
    with pytest.raises(UserError, match="hpt data corpus"):
        Corpus.read(tmp_path)


def test_an_encoder_without_faiss_is_one_line_that_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # an import of it then fails, as where it is not installed
    with pytest.raises(UserError, match="--encoder: needs FAISS; pip install faiss-cpu"):
        open_service(str(tmp_path), encoder="http://127.0.0.1:1/v1")


def test_equal_scores_are_ordered_by_number():
    scores = np.array([1.0, 3.0, 1.0, 1.0, 0.0])
    assert best(scores, 3, None) == [(1, 3.0), (0, 1.0), (2, 1.0)]
    assert best(scores, 9, [3, 2, 4]) == [(2, 1.0), (3, 1.0)]
