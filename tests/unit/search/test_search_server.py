"""The service as it is started: a process of its own, asked over HTTP in all four formats."""

import asyncio
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from hpt_megatron.rollout.search.client import SearchClient
from hpt_megatron.rollout.search.settings import Retriever
from hpt_megatron.search.hit import Query

pytestmark = pytest.mark.slow
PAGES = [(f"deck{i // 4}/{i}", f"page k{i:02d} number {i}") for i in range(12)]


@pytest.fixture(scope="module")
def server(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    lines = [json.dumps({"id": name, "image": f"{name}.png", "text": text}) for name, text in PAGES]
    (folder / "pages.jsonl").write_text("\n".join(lines))
    command = [sys.executable, str(checkout / "launch" / "search_server.py"), str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = process.stdout.readline()
    yield said.split()[-1].removesuffix("/search"), said
    process.send_signal(signal.SIGINT)
    process.wait(20)
    process.stdout.close()


def fetch(url, body=None, data=None):
    data = json.dumps(body).encode() if body is not None else data
    try:  # once: a service that says it is ready is reachable
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_it_says_how_many_pages_and_where_and_answers_in_every_format(server):
    url, said = server
    assert said.startswith("12 pages, ready in")
    assert fetch(f"{url}/health")[1]["pages"] == 12
    status, told = fetch(f"{url}/search?queries=k07&queries=k03+k01")
    assert (status, [[hit["image_file"] for hit in hits] for hits in told]) == (
        200,
        [["deck1/7.png"], ["deck0/1.png", "deck0/3.png"]],
    )
    _, told = fetch(f"{url}/search", [{"query": "k07", "id": "x", "request_idx": 4}])
    assert (told[0]["request_idx"], told[0]["results"][0]["idx"]) == (4, 7)
    _, told = fetch(f"{url}/search", [{"query": "k07", "request_idx": 0, "row_index": "deck1"}])
    assert told[0]["results"][0]["position"] == 3
    _, told = fetch(f"{url}/search", {"queries": ["k07"], "topk": 1, "return_scores": True})
    assert told["result"][0][0]["document"]["contents"] == "page k07 number 7"


def test_the_agents_client_finds_the_same_page_in_every_format(server, tmp_path):
    url, _ = server
    pages = tuple(f"{name}.png" for name, _ in PAGES[4:8])

    async def found(protocol):
        settings = Retriever(url=f"{url}/search", protocol=protocol, corpus_root=str(tmp_path), batch_wait_ms=5)
        client = SearchClient(settings)
        assert await client.healthy()
        many = await asyncio.gather(*(client.search(Query(f"k{i:02d}", "deck1", pages)) for i in (7, 4, 6, 7)))
        await client.close()
        assert client.stats.requests == 1
        return [(one.failed, one.hits[0].page) for one in many]

    for protocol in ("vrag_get", "ddai_post", "position", "search_r1"):
        assert asyncio.run(found(protocol)) == [("", f"deck1/{i}") for i in (7, 4, 6, 7)], protocol


def test_nonsense_is_refused_in_one_line_and_the_service_goes_on(server):
    url, _ = server
    for body in (
        {"queries": [7]},
        {"queries": ["a"], "topk": 0},
        [],
        [7],
        "text",
        {"queries": ["a" * 5000]},
        {"topk": 3},
    ):
        status, told = fetch(f"{url}/search", body)
        assert status == 400, body
        assert "\n" not in told["error"]
    assert fetch(f"{url}/search", data=b"{not json")[0] == 400
    assert fetch(f"{url}/search", data=b"[" * 200_000)[0] == 400
    assert fetch(f"{url}/search", data=b" " * 5_000_000)[0] == 413
    assert fetch(f"{url}/search")[0] == 400
    assert fetch(f"{url}/health")[0] == 200


def test_many_clients_at_once_each_get_their_own_answer(server):
    url, _ = server
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda i: fetch(f"{url}/search?queries=k{i % 12:02d}")[1], range(64)))
    assert [hits[0][0]["idx"] for hits in told] == [i % 12 for i in range(64)]


def test_a_wrong_folder_or_port_is_one_line_and_exit_code_2(checkout, server, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pages.jsonl").write_text('{"id": "a", "text": "a"}')
    taken = server[0].rpartition(":")[2]
    for words, why in (
        ([tmp_path / "empty"], "there is no pages.jsonl; make one with `hpt data corpus`"),
        ([tmp_path, "--port", "70000"], "a port is 0 to 65535, not '70000'"),
        ([tmp_path, "--port", taken], f"127.0.0.1:{taken}: cannot listen: Address already in use"),
        ([tmp_path, "--host", "no such host"], "cannot listen"),
    ):
        command = [sys.executable, str(checkout / "launch" / "search_server.py"), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.count("\n") == 1
        assert why in done.stderr


def test_the_service_needs_neither_torch_nor_transformers(checkout):
    program = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'vllm', 'ray'): sys.modules[name] = None\n"
        "from hpt_megatron.search.service import Service, application\n"
        "from hpt_megatron.search import embedding\n"
        "import bm25s"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
