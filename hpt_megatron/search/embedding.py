"""Pages by the vectors of their text, in a FAISS index, where an encoder is given: an address that speaks OpenAI's
`/embeddings`.

Decision: an encoder is a service, not code that we load. FAISS is no dependency: it is imported when an encoder is
named.

Invariants
    1. Vectors have length 1, so the inner product is their cosine.
    2. The index on disk is used again for the same pages, encoder and model; its file is FAISS's own, no pickle. One
       that cannot be read is built again.
    3. As many vectors as texts, each for its own text, all of one size: an answer that is otherwise is refused, for it
       would give pages the vectors of others.

Example: Embedded.open(corpus, folder, Encoder("http://127.0.0.1:8010/v1", "model"))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpt_megatron.errors import HptError, UserError
from hpt_megatron.search.corpus import Corpus
from hpt_megatron.search.index import Found, best, damaged, key_of, store

BATCH = 64
TIMEOUT_S = 60.0


def need_faiss() -> Any:
    """FAISS, or one line that says what to install."""
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "needs FAISS", where="--encoder", mend="pip install faiss-cpu, or leave --encoder out"
        ) from error
    return faiss


@dataclass(frozen=True)
class Encoder:
    """Texts to vectors over HTTP."""

    url: str
    model: str

    def encode(self, texts: Sequence[str]) -> Any:
        """[N, size] float32, each of length 1."""
        import httpx

        parts = []
        for start in range(0, len(texts), BATCH):
            body = {"model": self.model, "input": list(texts[start : start + BATCH])}
            try:
                answer = httpx.post(f"{self.url.rstrip('/')}/embeddings", json=body, timeout=TIMEOUT_S, trust_env=False)
                data = sorted(answer.raise_for_status().json()["data"], key=lambda entry: entry["index"])
                if [entry["index"] for entry in data] != list(range(len(body["input"]))):
                    raise ValueError(f"{len(data)} vectors for {len(body['input'])} texts, or not one for each")
                parts.append(_matrix([entry["embedding"] for entry in data]))
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, RecursionError) as error:
                told = str(error).partition("\n")[0]
                raise HptError(f"gives no embeddings: {told}", where=self.url) from error
        if len({part.shape[1] for part in parts}) != 1:
            raise HptError("gives vectors of several sizes", where=self.url)
        vectors = np.concatenate(parts)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _matrix(embeddings: Sequence[Any]) -> Any:
    found = np.array(embeddings, dtype=np.float32)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise ValueError("its vectors are not lists of finite numbers, all of one size")
    return found


class Embedded:
    """The index of the vectors."""

    def __init__(self, index: Any, encoder: Encoder, reused: bool) -> None:
        self._index, self._encoder, self.reused = index, encoder, reused

    @classmethod
    def open(cls, corpus: Corpus, folder: Path, encoder: Encoder) -> "Embedded":
        """From the folder, or built into it."""
        faiss = need_faiss()
        key = {"corpus": corpus.fingerprint, "encoder": encoder.url, "model": encoder.model}
        path = folder / "vectors.faiss"
        if key_of(folder) == key and (known := _on_disk(faiss, path, len(corpus.pages))) is not None:
            return cls(known, encoder, reused=True)
        vectors = encoder.encode([page.text for page in corpus.pages])
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        store(folder, key, lambda: faiss.write_index(index, str(path)))
        return cls(index, encoder, reused=False)

    def search(self, texts: Sequence[str], topk: int, among: Sequence[Sequence[int] | None]) -> list[Found]:
        """Best first; within a deck, all of its pages are compared."""
        most = self._index.ntotal if any(where is not None for where in among) else topk
        vectors = self._encoder.encode(texts)
        if vectors.shape[1] != self._index.d:
            what = f"gives vectors of {vectors.shape[1]} numbers, the index has {self._index.d}"
            raise HptError(what, where=self._encoder.url, mend="delete the index, which another encoder has made")
        scores, numbers = self._index.search(vectors, most)
        found = []
        for own_scores, own_numbers, where in zip(scores, numbers, among, strict=True):
            line = np.full(self._index.ntotal, -np.inf, dtype=np.float32)
            line[own_numbers[own_numbers >= 0]] = own_scores[own_numbers >= 0]
            found.append(best(line, topk, where, least=-np.inf))
        return found


def _on_disk(faiss: Any, path: Path, num_pages: int) -> Any:
    """The index of so many pages; None where it is damaged."""
    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, OSError) as error:
        return damaged(path, str(error))
    return index if index.ntotal == num_pages else damaged(path, f"it has {index.ntotal} pages, not {num_pages}")
