"""Sets of questions with an answer: mathematics, pictures, documents. Each function takes a row as it was published.

What a function gives has the columns that `rows.py:record_of` understands.
"""

import re
from typing import Any

from hpt_megatron.data.importers.texts import boxed, listed, marked
from hpt_megatron.data.rows import page_ids

Row = dict[str, Any]
CALCULATOR = re.compile(r"<<[^<>]*>>")


def gold(answer: Any, style: str = "rule") -> Row:
    """The reward model's column."""
    return {"style": style, "ground_truth": answer}


def gsm8k(row: Row) -> Row:
    """The answer is behind `####`; the way there becomes the target."""
    reasoning, found, answer = str(row["answer"]).rpartition("####")
    if not found:
        raise ValueError("its answer has no ####")
    number = answer.strip().replace(",", "")
    steps = CALCULATOR.sub("", reasoning).strip()
    target = f"{steps}\nThe answer is \\boxed{{{number}}}."
    return {"prompt": row["question"], "target": target, "reward_model": gold(number), "ability": "math"}


def problem(row: Row) -> Row:
    """`problem` and `answer`, with or without images: geometry3k, math12k, journeybench, the mixed set."""
    images = listed(row.get("images"))
    answer = boxed(str(row["answer"]))
    question = marked(str(row["problem"]), len(images))
    return {"prompt": question, "images": images, "reward_model": gold(answer), "ability": "math"}


def mmk12(row: Row) -> Row:
    """One image, which the question does not mark."""
    images = [row["image"]] if row["image"] is not None else []
    told = {"subject": row.get("subject")}
    question = marked(str(row["question"]), len(images))
    answer = gold(boxed(str(row["answer"])))
    return {"index": row["id"], "prompt": question, "images": images, "reward_model": answer, "extra_info": told}


def mm_eureka(row: Row) -> Row:
    """A conversation up to the question; images by `file://` address."""
    images, said = list(row.get("image_urls") or []), [dict(turn) for turn in row["conversations"]]
    last = next(turn for turn in reversed(said) if turn["role"] == "user")
    written = sum(turn["content"].count("<image>") for turn in said)
    last["content"] = marked(last["content"], len(images) - written + last["content"].count("<image>"))
    return {"index": row["id"], "prompt": said, "images": images, "reward_model": gold(boxed(str(row["answer"])))}


def virl39k(row: Row) -> Row:
    """Images by relative path; pass rates, which a curriculum can go by (`data.difficulty=-PassRate_7BBase`)."""
    images = list(row.get("image") or [])
    told = {name: row.get(name) for name in ("PassRate_32BTrained", "PassRate_7BBase", "category", "source")}
    answer = gold(boxed(str(row["answer"])))
    question = marked(str(row["question"]), len(images))
    return {"index": row["qid"], "prompt": question, "images": images, "reward_model": answer, "extra_info": told}


def mathvista(row: Row) -> Row:
    """Options and precision; answers of the test part are hidden, and so are its golds."""
    answer = row["answer"]
    precision = row.get("precision")
    if answer and row.get("answer_type") == "float" and precision is not None:
        answer = f"{float(answer):.{int(precision)}f}"
    image = row["decoded_image"] if row.get("decoded_image") is not None else row["image"]
    told = {name: row.get(name) for name in ("question_type", "answer_type", "unit", "precision", "query")}
    return {
        "index": row["pid"],
        "prompt": marked(str(row["question"]), 1),
        "images": [image],
        "choices": list(row.get("choices") or []),
        "reward_model": gold(answer or None),
        "extra_info": told | {"metadata": row.get("metadata")},
    }


def slidevqa(row: Row) -> Row:
    """A question about a deck, whose pages a search has to find."""
    pages = page_ids(row["deck_name"], listed(row["evidence_pages"]))
    told = {name: row.get(name) for name in ("arithmetic_expression", "reasoning_type", "answer_type", "deck_name")}
    answer = gold(str(row["answer"]))
    base = {"index": row["qa_id"], "prompt": row["question"], "ability": "search"}
    return {**base, "reward_model": answer, "reference": pages, "extra_info": told}


def vidoseek(row: Row) -> Row:
    """Also VRAG's own JSON, which has the same form."""
    meta = dict(row["meta_info"])
    pages = page_ids(meta["file_name"], listed(meta["reference_page"]))
    base = {"index": row["uid"], "prompt": row["query"], "ability": "search", "extra_info": meta}
    return {**base, "reward_model": gold(str(row["reference_answer"]), "model"), "reference": pages}


def mmlongbench(row: Row) -> Row:
    """Lists are written as text; a question may have no answer in its document."""
    told = {name: row.get(name) for name in ("doc_id", "doc_type", "answer_format")}
    told["evidence_sources"] = listed(row.get("evidence_sources"))
    told["unanswerable"] = str(row["answer"]).strip().lower() == "not answerable"
    base = {"prompt": row["question"], "ability": "search", "extra_info": told}
    return {
        **base,
        "reward_model": gold(str(row["answer"])),
        "reference": page_ids(row["doc_id"], listed(row["evidence_pages"])),
    }


def as_it_is(row: Row) -> Row:
    """Our schema already: OpenR1-Math as LUFFY and HPT publish it, VRAG's parquet."""
    return row


def math_evaluation(row: Row) -> Row:
    """AIME, AMC, MATH-500, Minerva, Olympiad, GPQA: a prompt and its answer."""
    name = str(row.get("source") or row.get("data_source") or "math")
    index = f"{name}-{row['id']}" if row.get("id") is not None else None
    base = {"prompt": row["prompt"], "data_source": name, "ability": "math", "index": index}
    return {**base, "reward_model": gold(str(row["answer"]))}


def search_r1(row: Row) -> Row:
    """A question of NQ or HotpotQA with several golds."""
    model = row.get("reward_model") or {}
    golds = row.get("golden_answers")
    if golds is None:
        golds = model["ground_truth"]["target"]
    base = {"index": row.get("id"), "prompt": row["question"], "ability": "search"}
    return {**base, "data_source": row.get("data_source") or "nq", "reward_model": gold(listed(golds))}


def deck(row: Row) -> Row:
    """A row with its deck: page images, the pages that hold the answer, arguments for tools."""
    told = {"deck": [str(path) for path in row["document_images"]], "tools_kwargs": row.get("tools_kwargs")}
    known = {name: row.get(name) for name in ("prompt", "reward_model", "data_source", "ability")}
    extra = dict(row.get("extra_info") or {}) | told
    return {**known, "index": row["row_index"], "reference": list(row["reference_documents"]), "extra_info": extra}
