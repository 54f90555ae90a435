"""The public sets that `hpt data import` knows, and how one is written in our schema.

Decision: a set is one line in a table and one function from its row to ours. What all rows go through (images, golds,
references, checks) is `rows.py:record_of`, as for any other file.

Invariants
    1. A row that cannot be used is told with its place, and left out only where that was asked for; the file is written
       whole or not at all.
    2. Images that stand below the written file's folder stay paths, relative to it; all others go into it as bytes. So
       the file can be moved with its folder.
    3. Nothing is downloaded. Licences are those of the sets: read the terms of what you use.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from hpt_megatron.data.files import attempts, check_output, plain, write_rows
from hpt_megatron.data.importers import conversations, questions
from hpt_megatron.data.reading import distinct
from hpt_megatron.data.record import Record, Source
from hpt_megatron.data.rows import record_of, row_of
from hpt_megatron.errors import UserError

Row = dict[str, Any]


@dataclass(frozen=True)
class PublicSet:
    """A set: the function for its rows, the columns these must have, what it is."""

    row: Callable[[Row], Row]
    columns: str
    about: str


SETS = {
    "gsm8k": PublicSet(questions.gsm8k, "question answer", "openai/gsm8k, main"),
    "geometry3k": PublicSet(questions.problem, "images problem answer", "hiyouga/geometry3k"),
    "math12k": PublicSet(questions.problem, "problem answer", "hiyouga/math12k"),
    "journeybench": PublicSet(questions.problem, "images problem answer", "hiyouga/journeybench-multi-image-vqa"),
    "mixed": PublicSet(questions.problem, "problem answer", "hiyouga/rl-mixed-dataset"),
    "mmk12": PublicSet(questions.mmk12, "id question answer image", "FanqingM/MMK12"),
    "mm-eureka": PublicSet(questions.mm_eureka, "id conversations answer", "MM-Eureka, JSON lines"),
    "virl39k": PublicSet(questions.virl39k, "qid question answer", "TIGER-Lab/ViRL39K, MIT; its images are a zip"),
    "mathvista": PublicSet(questions.mathvista, "pid question image answer", "AI4Math/MathVista, CC-BY-SA 4.0"),
    "slidevqa": PublicSet(
        questions.slidevqa, "deck_name qa_id question answer evidence_pages", "NTT-hil-insight/SlideVQA, gated"
    ),
    "vidoseek": PublicSet(
        questions.vidoseek, "uid query reference_answer meta_info", "autumncc/ViDoSeek, Apache-2.0; VRAG's JSON"
    ),
    "mmlongbench": PublicSet(
        questions.mmlongbench, "doc_id question answer evidence_pages", "yubo2333/MMLongBench-Doc"
    ),
    "openr1-math": PublicSet(questions.as_it_is, "prompt target reward_model", "Elliott/Openr1-Math-46k-8192"),
    "math-evals": PublicSet(questions.math_evaluation, "prompt answer", "AIME, AMC, MATH-500, Minerva, Olympiad, GPQA"),
    "ultrafeedback": PublicSet(
        conversations.ultrafeedback, "prompt_id chosen rejected", "HuggingFaceH4/ultrafeedback_binarized"
    ),
    "ultrafeedback-large": PublicSet(
        conversations.ultrafeedback_all, "instruction completions", "openbmb/UltraFeedback, best against worst"
    ),
    "hh-rlhf": PublicSet(conversations.hh_rlhf, "chosen rejected", "Anthropic/hh-rlhf"),
    "summarize": PublicSet(conversations.summarize, "info summaries choice", "openai/summarize_from_feedback"),
    "vrag-sft": PublicSet(conversations.vrag_sft, "messages images", "VRAG's demonstrations, LLaMA-Factory's form"),
    "search-r1-nq": PublicSet(questions.search_r1, "question", "Search-R1's NQ and HotpotQA"),
    "vrag-rl": PublicSet(questions.as_it_is, "prompt reward_model extra_info", "VRAG's parquet for RL"),
    "lns": PublicSet(questions.deck, "prompt document_images reference_documents row_index", "rows with their deck"),
}
ALIASES = {
    "ultrafeedback_large": "ultrafeedback-large",
    "hh_rlhf": "hh-rlhf",
    "openai_summarize": "summarize",
    "nq": "search-r1-nq",
}


def public_set(name: str) -> PublicSet:
    """The set of a name."""
    found = SETS.get(ALIASES.get(name, name))
    if found is None:
        raise UserError(f"no such set: {name}", where="hpt data import", mend=f"one of {', '.join(SETS)}")
    return found


def record(name: str, row: Row, where: str, root: str | Path = "") -> Record:
    """One row of a set as a record."""
    known = public_set(name)
    lacking = [column for column in known.columns.split() if column not in row]
    if lacking:
        have = ", ".join(sorted(map(str, row))[:20])
        raise UserError(f"lacks the column {lacking[0]!r} of {name}", where=where, mend=f"it has {have}")
    try:
        made = known.row(plain(row))
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration, OverflowError) as error:
        raise UserError(f"is no row of {name}: {error or type(error).__name__}", where=where) from error
    except RecursionError as error:
        raise UserError("is nested too deeply", where=where) from error
    found = record_of({name: value for name, value in made.items() if value is not None}, where, root)
    return found if found.data_source else replace(found, data_source=ALIASES.get(name, name))


@dataclass(frozen=True)
class Imported:
    """What became of a set; `skipped` says which rows were left out and why."""

    rows: int
    skipped: list[str]


def import_set(
    name: str,
    source: str | Path,
    out: str | Path,
    most: int | None = None,
    image_root: str | None = None,
    skip: bool = False,
) -> Imported:
    """Writes a set in our schema; a row that cannot be used ends it, or is left out where `skip` says so."""
    public_set(name)
    root, folder = image_root or Path(source).parent, Path(out).parent
    records, skipped = [], []
    check_output(out, source)
    for where, row in islice(attempts(source), most):
        try:
            if isinstance(row, UserError):
                raise row
            records.append(_portable(record(name, row, where, root), folder))
        except UserError as error:
            if not skip:
                raise
            skipped.append(str(error))
    told, _ = distinct(records)
    return Imported(write_rows(out, map(row_of, told)), skipped)


def _portable(one: Record, folder: Path) -> Record:
    images = tuple(_carried(image, folder) for image in one.images)
    return replace(one, images=images, target_images=tuple(_carried(image, folder) for image in one.target_images))


def _carried(image: Source, folder: Path) -> Source:
    base = os.path.abspath(folder)
    if image.path is not None and image.path.startswith(base.rstrip("/") + "/"):
        return Source(path=os.path.relpath(image.path, base))
    return Source(data=image.read())
