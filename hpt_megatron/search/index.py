"""Which pages fit some words: BM25 over the pages' texts, kept on disk and used again while nothing changed.

Decision: an existing library (bm25s) ranks; its files are arrays and JSON, no pickle. The key beside them says what
the index was built from: the corpus, the library's release, our way to split words. Another key, and it is built again.

Invariants
    1. Words are runs of letters and digits in lower case; no word is left out and none is cut to its stem, so keys
       such as `k07` are found, in any language.
    2. Pages without any of the words are no hits.
    3. Equal scores are ordered by the number of the page.
    4. An index that cannot be read is built again, with a warning.

Example: Bm25.open(corpus, folder).search(["red fox"], topk=10, among=[None])
"""

import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hpt_megatron.errors import UserError
from hpt_megatron.search.corpus import Corpus

LOG = logging.getLogger(__name__)
WORDS = r"(?u)\w+"
KEY = "key.json"

Found = list[tuple[int, float]]
"""Numbers of pages with their scores, best first."""


class Index(Protocol):
    """Whoever ranks pages."""

    def search(self, texts: Sequence[str], topk: int, among: Sequence[Sequence[int] | None]) -> list[Found]:
        """Of each text; `among` says which pages may be found."""


class Bm25:
    """The embedded default."""

    def __init__(self, ranker: Any, reused: bool) -> None:
        self._ranker, self.reused = ranker, reused

    @classmethod
    def open(cls, corpus: Corpus, folder: Path) -> "Bm25":
        """From the folder, or built into it."""
        import bm25s

        key = {"corpus": corpus.fingerprint, "bm25s": bm25s.__version__, "words": WORDS}
        if key_of(folder) == key and (known := _on_disk(folder / "bm25", len(corpus.pages))) is not None:
            return cls(known, reused=True)
        if not any(re.search(WORDS, page.text) for page in corpus.pages):
            mend = "put a .txt beside each image, or give --encoder"
            raise UserError("no page has any text to be found by", where=str(corpus.folder), mend=mend)
        ranker = bm25s.BM25()
        ranker.index(_split([page.text for page in corpus.pages]), show_progress=False)
        shutil.rmtree(folder / "bm25", ignore_errors=True)
        store(folder, key, lambda: ranker.save(folder / "bm25", show_progress=False))
        return cls(ranker, reused=False)

    def search(self, texts: Sequence[str], topk: int, among: Sequence[Sequence[int] | None]) -> list[Found]:
        """Best first."""
        words = _split(texts, as_ids=False)
        return [self._one(known, topk, where) for known, where in zip(words, among, strict=True)]

    def _one(self, words: list[str], topk: int, among: Sequence[int] | None) -> Found:
        known = [word for word in words if word in self._ranker.vocab_dict]
        if not known:
            return []
        return best(np.asarray(self._ranker.get_scores(known)), topk, among)


def best(scores: Any, topk: int, among: Sequence[int] | None, least: float = 0.0) -> Found:
    """The pages with the highest scores above `least`.

    >>> best(np.array([0.0, 2.0, 1.0, 2.0]), 2, None)
    [(1, 2.0), (3, 2.0)]
    """
    numbers = np.arange(len(scores)) if among is None else np.asarray(among, dtype=np.int64)
    numbers = numbers[scores[numbers] > least]
    if len(numbers) > topk:  # all that are not below the k-th, so that ties are settled by number
        threshold = np.partition(scores[numbers], -topk)[-topk]
        numbers = numbers[scores[numbers] >= threshold]
    order = numbers[np.lexsort((numbers, -scores[numbers]))][:topk]
    return [(int(number), float(scores[number])) for number in order]


def key_of(folder: Path) -> Any:
    """What the index in a folder was built from; None where there is none."""
    try:
        return json.loads((folder / KEY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def store(folder: Path, key: Any, write: Callable[[], None]) -> None:
    """Writes an index and, last, its key: without it what lies there counts for nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / KEY).unlink(missing_ok=True)
        write()
        (folder / KEY).write_text(json.dumps(key), encoding="utf-8")
    except (OSError, RuntimeError) as error:  # RuntimeError: FAISS's own
        told = str(error).partition("\n")[0]
        raise UserError(f"the index cannot be written: {told}", where=str(folder)) from error


def damaged(path: Path, why: str) -> None:
    """Says that an index is built again."""
    LOG.warning("the index %s is damaged and built again: %s", path, " ".join(why.split())[:200])


def _on_disk(folder: Path, num_pages: int) -> Any:
    """The ranker of so many pages; None where it is damaged."""
    import bm25s

    try:
        ranker = bm25s.BM25.load(folder)
        ranker.get_scores(list(ranker.vocab_dict)[:1])
        found = int(ranker.scores["num_docs"])
    except Exception as error:  # what lies there may be anything
        return damaged(folder, f"{type(error).__name__} {error}")
    return ranker if found == num_pages else damaged(folder, f"it has {found} pages, not {num_pages}")


def _split(texts: Sequence[str], as_ids: bool = True) -> Any:
    import bm25s

    return bm25s.tokenize(
        list(texts), token_pattern=WORDS, stopwords=None, return_ids=as_ids, show_progress=False, allow_empty=True
    )
