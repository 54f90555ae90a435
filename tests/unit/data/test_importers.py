"""Every public set from a small file in its exact schema. Not covered: the real files, which are not here."""

import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hpt_megatron.data.importers.sets import SETS, import_set, record
from hpt_megatron.data.importers.texts import boxed, listed, transcript
from hpt_megatron.data.reading import read
from hpt_megatron.data.record import problems_of
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast


def png(colour="red"):
    held = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(held, "PNG")
    return held.getvalue()


CELL = {"bytes": png(), "path": "images/0.png"}
USER = {"role": "user", "content": "Hi?"}
R1 = {
    "data_source": "Openr1",
    "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "x?"}],
    "target": [{"role": "assistant", "content": "<think>\nhm</think> \\boxed{2}"}],
    "ability": "math",
    "reward_model": {"ground_truth": "2", "style": "rule"},
    "extra_info": {"index": 5, "split": "default"},
}
META = {"file_name": "deck a.pdf", "reference_page": [3, 4], "source_type": "2d_layout", "query_type": "Single"}
VRAG = {
    "id": "u",
    "data_source": "slidevqa",
    "prompt": [USER],
    "ability": "vqa",
    "reward_model": {"style": "model", "ground_truth": "6"},
    "extra_info": {
        "question": "q",
        "file_name": "d.pdf",
        "reference_page": [7],
        "content_type": "t",
        "reason_type": "r",
    },
}
SAID = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "<search>a</search>"},
    {"role": "user", "content": "<image>"},
    {"role": "assistant", "content": "<answer>6</answer>"},
]
# set -> (rows, what the first record must say)
CASES = {
    "gsm8k": (
        [{"question": "How many?", "answer": "2*3=<<2*3=6>>6\n#### 1,006"}],
        {"golds": ("1006",), "question": "How many?", "target_text": "2*3=6\nThe answer is \\boxed{1006}."},
    ),
    "geometry3k": (
        [{"images": [CELL], "problem": "<image>Find x.", "answer": "\\frac{1}{2}"}],
        {"golds": ("\\frac{1}{2}",), "question": "<image>Find x.", "target": None, "modality": "image"},
    ),
    "math12k": ([{"problem": "1+1", "answer": "2"}], {"golds": ("2",), "modality": "text"}),
    "journeybench": (
        [{"images": [CELL, CELL], "problem": "<image><image>Which?", "answer": "A"}],
        {"modality": "images", "golds": ("A",)},
    ),
    "mixed": ([{"images": [], "problem": "1+1", "answer": "2"}], {"modality": "text"}),
    "mmk12": (
        [{"id": "m1", "question": "Area?", "answer": "4", "subject": "math", "image": CELL}],
        {"index": "m1", "question": "<image>Area?", "extra": {"subject": "math"}},
    ),
    "mm-eureka": (
        [
            {
                "id": "e1",
                "conversations": [{"role": "system", "content": "S"}, {"role": "user", "content": "Area?"}],
                "answer": "$4$",
                "image_urls": ["file://{root}/images/0.png"],
            }
        ],
        {"index": "e1", "question": "<image>Area?", "golds": ("$4$",)},
    ),
    "virl39k": (
        [
            {
                "question": "<image>Which?",
                "answer": "\\boxed{B}",
                "image": ["images/0.png"],
                "PassRate_32BTrained": 0.5,
                "PassRate_7BBase": 0.25,
                "category": "STEM",
                "source": "s",
                "qid": "q1",
            }
        ],
        {"index": "q1", "golds": ("B",)},
    ),
    "mathvista": (
        [
            {
                "pid": "1",
                "question": "How long?",
                "image": "images/1.jpg",
                "decoded_image": CELL,
                "choices": ["1.20", "2.50"],
                "unit": None,
                "precision": 2.0,
                "answer": "1.2",
                "question_type": "multi_choice",
                "answer_type": "float",
                "metadata": {"split": "testmini"},
                "query": "Hint",
            }
        ],
        {"golds": ("1.20",), "choices": ("1.20", "2.50"), "question": "<image>How long?"},
    ),
    "slidevqa": (
        [
            {
                "deck_name": "deck",
                "deck_url": "u",
                "qa_id": 9,
                "question": "Which?",
                "answer": "6%",
                "arithmetic_expression": "None",
                "evidence_pages": [2, 11],
                "page_1": CELL,
            }
        ],
        {"index": "9", "golds": ("6%",), "reference": ("deck_2", "deck_11"), "images": ()},
    ),
    "vidoseek": (
        [{"uid": "v1", "query": "Which?", "reference_answer": "6", "meta_info": META}],
        {"index": "v1", "style": "model", "reference": ("deck a_3", "deck a_4"), "golds": ("6",)},
    ),
    "mmlongbench": (
        [
            {
                "doc_id": "doc.pdf",
                "doc_type": "Report",
                "question": "Which?",
                "answer": "Not answerable",
                "evidence_pages": "[5, 6]",
                "evidence_sources": "['Chart', 'Table']",
                "answer_format": "None",
            }
        ],
        {"reference": ("doc_5", "doc_6"), "golds": ("Not answerable",)},
    ),
    "openr1-math": ([R1, {**R1, "target": None}], {"index": "5", "golds": ("2",), "data_source": "Openr1"}),
    "math-evals": (
        [{"prompt": "x?", "answer": "2", "source": "aime24", "id": 3}],
        {"index": "aime24-3", "data_source": "aime24", "golds": ("2",)},
    ),
    "ultrafeedback": (
        [
            {
                "prompt": "Hi?",
                "prompt_id": "h",
                "chosen": [USER, {"role": "assistant", "content": "good"}],
                "rejected": [USER, {"role": "assistant", "content": "bad"}],
                "messages": [USER],
                "score_chosen": 8.5,
                "score_rejected": 4.0,
            }
        ],
        {"index": "h", "question": "Hi?", "target_text": "good"},
    ),
    "ultrafeedback-large": (
        [
            {
                "source": "evol",
                "instruction": "Hi?",
                "completions": [
                    {"response": "bad", "overall_score": 2.0},
                    {"response": "good", "overall_score": 9.0},
                    {"response": "fair", "overall_score": 5.0},
                ],
            }
        ],
        {"question": "Hi?", "target_text": "good"},
    ),
    "hh-rlhf": (
        [
            {
                "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: good",
                "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: bad",
            }
        ],
        {"question": "c", "target_text": "good"},
    ),
    "summarize": (
        [
            {
                "info": {"post": "long", "title": "t", "subreddit": "s"},
                "summaries": [{"text": " one"}, {"text": " two"}],
                "choice": 1,
            }
        ],
        {"target_text": "two", "question": "Subreddit: r/s\nTitle: t\nPost: long\n\nSummarize the post."},
    ),
    "vrag-sft": ([{"messages": SAID, "images": ["images/0.png"]}], {"question": "q", "images": ()}),
    "search-r1-nq": (
        [{"id": "n1", "question": "who?", "golden_answers": ["a", "b"], "data_source": "nq"}],
        {"index": "n1", "golds": ("a", "b"), "data_source": "nq"},
    ),
    "vrag-rl": ([VRAG], {"index": "u", "reference": ("d_7",), "style": "model", "golds": ("6",)}),
    "lns": (
        [
            {
                "prompt": [USER],
                "reward_model": {"style": "rule", "ground_truth": "6"},
                "document_images": ["d/1.png", "d/2.png"],
                "reference_documents": ["d/2.png"],
                "row_index": 4,
                "tools_kwargs": {"search": {"k": 3}},
            }
        ],
        {"index": "4", "reference": ("d/2",), "golds": ("6",)},
    ),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.png").write_bytes(png("blue"))
    return tmp_path


def written(name, folder):
    """The rows as they are published: JSON lines where the set is, else parquet."""
    rows = [dict(row) for row in CASES[name][0]]
    for row in rows:
        if "image_urls" in row:
            row["image_urls"] = [url.replace("{root}", str(folder)) for url in row["image_urls"]]
    if name == "vidoseek":
        (folder / "in.json").write_text(json.dumps({"examples": rows}))
        return folder / "in.json"
    if name in ("mm-eureka", "vrag-sft", "math-evals"):
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder / "in.jsonl"
    pq.write_table(pa.Table.from_pylist(rows), folder / "in.parquet")
    return folder / "in.parquet"


def test_every_set_has_a_case():
    assert set(CASES) == set(SETS)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("out", ["out.parquet", "out.jsonl"])
def test_a_set_becomes_records_and_is_read_again(name, folder, out):
    rows, told = CASES[name]
    assert import_set(name, written(name, folder), folder / out).rows == len(rows)
    reading = read([folder / out])
    assert reading.problems == []
    for one in reading.records:
        assert problems_of(one) == []
    first = reading.records[0]
    assert {field: getattr(first, field) for field in told} == told
    assert first.data_source in (name, "Openr1", "aime24", "nq", "slidevqa")
    for image in (*first.images, *first.target_images):
        assert image.read() in (png(), png("blue"))


def test_what_is_particular_to_a_set_is_kept(folder):
    def first(name):
        return record(name, CASES[name.replace("_", "-")][0][0], "here", folder)

    assert first("virl39k").extra["PassRate_7BBase"] == 0.25
    assert first("mmlongbench").extra["evidence_sources"] == ["Chart", "Table"]
    assert first("mmlongbench").extra["unanswerable"] is True
    assert first("ultrafeedback").extra["margin"] == 4.5
    assert first("ultrafeedback_large").extra["margin"] == 7.0
    assert first("hh-rlhf").extra["rejected"] == [{"role": "assistant", "content": "bad"}]
    assert len(first("hh-rlhf").prompt) == 3
    assert first("summarize").extra["rejected"][0]["content"] == "one"
    assert [message.role for message in first("vrag-sft").target] == ["assistant", "user", "assistant"]
    assert len(first("vrag-sft").target_images) == 1
    assert first("lns").extra["deck"] == ["d/1.png", "d/2.png"]
    assert first("lns").extra["tools_kwargs"] == {"search": {"k": 3}}
    hidden = {**CASES["mathvista"][0][0], "answer": ""}
    assert record("mathvista", hidden, "here", folder).golds == ()
    nested = {"question": "q", "reward_model": {"ground_truth": {"target": ["a"]}}}
    assert record("search-r1-nq", nested, "here").golds == ("a",)


def test_an_imported_file_moves_with_its_folder(folder, tmp_path):
    import_set("virl39k", written("virl39k", folder), folder / "out.jsonl")
    assert '"path": "images/0.png"' in (folder / "out.jsonl").read_text()
    import_set("virl39k", written("virl39k", folder), folder / "far/out.parquet")
    os.rename(folder / "far", folder / "moved")
    assert read([folder / "moved/out.parquet"]).records[0].images[0].data == png("blue")


def test_a_row_of_another_set_is_one_line_with_its_place(folder):
    with pytest.raises(UserError, match=r"row 1: lacks the column 'problem' of math12k; it has answer, question"):
        import_set("math12k", written("gsm8k", folder), folder / "out.parquet")
    assert not (folder / "out.parquet").exists()
    (folder / "in.jsonl").write_text('{"question": "q", "answer": "6"}\n{"question": "q", "answer": "#### 6"}\n')
    made = import_set("gsm8k", folder / "in.jsonl", folder / "out.jsonl", skip=True)
    assert (made.rows, len(made.skipped)) == (1, 1)
    assert "in.jsonl:1: is no row of gsm8k" in made.skipped[0]
    (folder / "in.jsonl").write_text('{"question":\n[1]\n' + (folder / "in.jsonl").read_text())
    made = import_set("gsm8k", folder / "in.jsonl", folder / "out.jsonl", skip=True)
    assert (made.rows, [line.rpartition("/")[2][:22] for line in made.skipped]) == (
        1,
        ["in.jsonl:1: is not JSO", "in.jsonl:2: is not a J", "in.jsonl:3: is no row "],
    )
    assert import_set("gsm8k", folder / "in.jsonl", folder / "out.jsonl", most=3, skip=True).rows == 0
    with pytest.raises(UserError, match=r"in\.jsonl:1: is not JSON"):
        import_set("gsm8k", folder / "in.jsonl", folder / "out.jsonl")
    before = (folder / "in.jsonl").read_bytes()
    (folder / "same.jsonl").symlink_to(folder / "in.jsonl")
    with pytest.raises(UserError, match="is the input, which would be overwritten"):
        import_set("gsm8k", folder / "in.jsonl", folder / "same.jsonl", skip=True)
    assert (folder / "in.jsonl").read_bytes() == before
    huge = {**CASES["mathvista"][0][0], "precision": float("inf")}
    with pytest.raises(UserError, match="here: is no row of mathvista"):
        record("mathvista", huge, "here")
    with pytest.raises(UserError, match="its answer has no ####"):
        record("gsm8k", {"question": "q", "answer": "6"}, "here")
    with pytest.raises(UserError, match="does not end with the assistant"):
        record("hh-rlhf", {"chosen": "text", "rejected": "text"}, "here")
    with pytest.raises(UserError, match="no such set: gsm; one of gsm8k"):
        import_set("gsm", folder / "in.parquet", folder / "out.parquet")


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("a \\boxed{1} b \\boxed{2}", "2"),
        ("7", "7"),
        ("\\boxed{1", "\\boxed{1"),
    ],
)
def test_the_last_box_is_read_with_its_braces(text, inner):
    assert boxed(text) == inner


@pytest.mark.parametrize(
    ("text", "found"),
    [("[1, 2]", [1, 2]), ("['a', \"b's\"]", ["a", "b's"]), ("[]", []), ([3], [3]), (None, []), ("a, b", ["a", "b"])],
)
def test_lists_are_read_without_evaluating(text, found):
    assert listed(text) == found


def test_a_transcript_keeps_its_turns():
    said = transcript("\n\nHuman: a: b\n\nc\n\nAssistant: d")
    assert said == [{"role": "user", "content": "a: b\n\nc"}, {"role": "assistant", "content": "d"}]
