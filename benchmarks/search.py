"""The search service as it is started: seconds until it answers, and how long a batch of 64 queries takes over HTTP.

    python benchmarks/search.py [--pages 3000] [--repeat 20]

Pages hold 300 words each, drawn from 20,000 with frequencies as in a language (1 / rank); a query has 8 of them.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

import httpx

from hpt_megatron.host.ports import free_port
from hpt_megatron.search.hit import Asked
from hpt_megatron.search.wire.formats import WIRES

ROOT = Path(__file__).resolve().parent.parent
WORDS = [f"word{i}" for i in range(20_000)]
WEIGHTS = list(accumulate(1 / (i + 1) for i in range(len(WORDS))))


def words(draw: random.Random, number: int) -> str:
    """A text of so many words."""
    return " ".join(draw.choices(WORDS, cum_weights=WEIGHTS, k=number))


def write(folder: Path, pages: int, draw: random.Random) -> None:
    """A corpus."""
    with (folder / "pages.jsonl").open("w") as file:
        for i in range(pages):
            name = f"deck{i // 20}/{i}"
            file.write(json.dumps({"id": name, "image": f"{name}.png", "text": words(draw, 300)}) + "\n")


def started(folder: Path) -> tuple[subprocess.Popen[str], str, float]:
    """The service, its address, and seconds until it answered."""
    port = free_port()
    begin = time.perf_counter()
    command = [sys.executable, str(ROOT / "launch" / "search_server.py"), str(folder), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True)
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return process, url, time.perf_counter() - begin
        except httpx.TransportError:
            time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> None:
    """Stops what was started."""
    process.terminate()
    process.wait()


def batches(url: str, repeat: int, draw: random.Random) -> None:
    """One request of 64 queries, in each format that takes many; then 64 requests of one."""
    with httpx.Client(trust_env=False, timeout=60) as client:
        for name in ("vrag_get", "ddai_post", "search_r1"):
            taken = []
            for _ in range(repeat + 1):
                asked = [Asked(str(i), words(draw, 8)) for i in range(64)]
                begin = time.perf_counter()
                for call in WIRES[name].calls(asked):
                    answer = client.request(call.method, f"{url}/search", params=list(call.params), json=call.body)
                    WIRES[name].read(answer.raise_for_status().json(), call.asked)
                taken.append(time.perf_counter() - begin)
            told("64 queries in one request", name, taken[1:])
    told("512 requests of one query, 64 at a time", "vrag_get", asyncio.run(singles(url, draw)))


async def singles(url: str, draw: random.Random) -> list[float]:
    """Seconds of each request, of the last of three rounds."""
    taken: list[float] = []
    limit = asyncio.Semaphore(64)
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:

        async def one(text: str) -> None:
            async with limit:
                begin = time.perf_counter()
                (await client.get(f"{url}/search", params={"queries": text})).raise_for_status()
                taken.append(time.perf_counter() - begin)

        for _ in range(3):
            taken.clear()
            await asyncio.gather(*(one(words(draw, 8)) for _ in range(512)))
    return taken


def told(what: str, name: str, taken: list[float]) -> None:
    """One line."""
    ms = sorted(1000 * seconds for seconds in taken)
    p95 = ms[min(int(0.95 * len(ms)), len(ms) - 1)]
    print(f"{what:42} {name:10} median {statistics.median(ms):7.1f} ms   p95 {p95:7.1f} ms   max {ms[-1]:7.1f} ms")


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=3000)
    parser.add_argument("--repeat", type=int, default=20)
    given = parser.parse_args()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, given.pages, draw)
        process, url, seconds = started(folder)
        ended(process)
        print(f"{given.pages} pages: answers after {seconds:.1f} s, index built")
        process, url, seconds = started(folder)
        print(f"{given.pages} pages: answers after {seconds:.1f} s, index read")
        try:
            batches(url, given.repeat, draw)
        finally:
            ended(process)


if __name__ == "__main__":
    main()
