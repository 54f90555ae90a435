"""Pages found by vectors: the service in a process of its own, FAISS, and a real encoder over HTTP.

The encoder counts letters, which is enough to rank by. Not covered: an encoder that looks at images.
"""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest
from test_search_server import fetch

from hpt_megatron.errors import HptError
from hpt_megatron.search.corpus import Corpus
from hpt_megatron.search.embedding import Embedded, Encoder

pytestmark = pytest.mark.slow
PAGES = [(f"p{i}", text) for i, text in enumerate(("aaa", "aab", "bbb", "abc", "ccc c", "zz"))]


def vector(text):
    return [float(text.count(chr(ord("a") + i))) + 0.01 for i in range(26)]


@pytest.fixture
def encoder():
    """An address that answers /embeddings, in another order than asked, and what it was asked."""
    asked = []

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.extend(told["input"])
            data = [{"index": i, "embedding": vector(text)} for i, text in enumerate(told["input"])][::-1]
            body = json.dumps({"data": data, "model": told["model"]}).encode()
            self.send_response(200 if told["model"] == "letters" else 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([{"index": 0, "embedding": [1.0]}], "1 vectors for 2 texts"),
        ([{"index": i, "embedding": [1.0]} for i in (0, 1, 2)], "3 vectors for 2 texts"),
        ([{"index": 0, "embedding": [1.0]}] * 2, "not one for each"),
        ([{"index": i, "embedding": [1.0] * (i + 1)} for i in (0, 1)], "gives no embeddings"),
        ([{"index": i, "embedding": 1.0} for i in (0, 1)], "all of one size"),
        ([{"index": i, "embedding": [float("nan")]} for i in (0, 1)], "finite numbers"),
        ([7, 8], "gives no embeddings"),
    ],
)
def test_an_answer_that_would_give_pages_the_vectors_of_others_is_refused(monkeypatch, data, why):
    answer = httpx.Response(200, content=json.dumps({"data": data}), request=httpx.Request("POST", "http://x"))
    monkeypatch.setattr(httpx, "post", lambda *_, **__: answer)
    with pytest.raises(HptError, match=why):
        Encoder("http://127.0.0.1/v1", "m").encode(["a", "b"])


def served(checkout, folder, encoder, queries):
    """What the service answers to the queries, and what it said when it was ready."""
    command = [sys.executable, str(checkout / "launch" / "search_server.py"), str(folder), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--encoder", encoder, "--model", "letters"], stdout=subprocess.PIPE, text=True
    )
    try:
        said = process.stdout.readline()
        query = "&".join(f"queries={text}" for text in queries)
        return fetch(f"{said.split()[-1]}?{query}")[1], said
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def test_pages_are_ranked_by_cosine_and_encoded_once(checkout, tmp_path, encoder):
    url, asked = encoder
    lines = [json.dumps({"id": name, "image": f"{name}.png", "text": text}) for name, text in PAGES]
    (tmp_path / "pages.jsonl").write_text("\n".join(lines))
    told, said = served(checkout, tmp_path, url, ["ab", "zzz"])
    assert said.startswith("6 pages, ready in")
    vectors = np.array([vector(text) for _, text in PAGES])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for text, hits in zip(("ab", "zzz"), told, strict=True):
        own = np.array(vector(text)) / np.linalg.norm(vector(text))
        order = np.argsort(-(vectors @ own), kind="stable")
        assert [hit["image_file"] for hit in hits] == [f"p{i}.png" for i in order]
        assert [hit["score"] for hit in hits] == pytest.approx((vectors @ own)[order].tolist(), abs=1e-5)
    assert sorted(asked) == sorted([text for _, text in PAGES] + ["ab", "zzz"])
    again, _ = served(checkout, tmp_path, url, ["ab", "zzz"])
    assert again == told
    assert len(asked) == len(PAGES) + 4, "only the queries, the second time"
    corpus, encoder = Corpus.read(tmp_path), Encoder(url, "letters")
    with (tmp_path / ".vectors/vectors.faiss").open("r+b") as file:
        file.truncate(40)
    assert not Embedded.open(corpus, tmp_path / ".vectors", encoder).reused
    known = Embedded.open(corpus, tmp_path / ".vectors", encoder)
    assert known.reused
    assert [hit["score"] for hit in told[0][:2]] == pytest.approx([s for _, s in known.search(["ab"], 2, [None])[0]])
    known._index.d = 3
    with pytest.raises(HptError, match="gives vectors of 26 numbers, the index has 3"):
        known.search(["ab"], 2, [None])


def test_an_encoder_that_fails_is_one_line(checkout, tmp_path, encoder):
    (tmp_path / "pages.jsonl").write_text('{"id": "a", "image": "a.png", "text": "a"}\n')
    command = [sys.executable, str(checkout / "launch" / "search_server.py"), str(tmp_path), "--encoder", encoder[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "gives no embeddings" in done.stderr
    assert done.stderr.count("\n") == 1
