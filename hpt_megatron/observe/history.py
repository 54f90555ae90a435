"""What became of each prompt over a run: one file for each, and which prompts changed their decision.

    RUN/history/UID.jsonl    {"step": 7, "n": 8, "k": 2, "decision": "explore", "mean_reward": 0.25, ...}

A line for every step in which the prompt was drawn. `solve_none` and `solve_all` are what users of the released code
know them as. Steps in which nothing was sampled (a warm-up) have n 0, no mean reward, and are no decision to turn from.

Invariants
    1. `decisions.jsonl` has every line of a history first, so that what a resumed run takes back is found there.
    2. A name is a file's name whatever it holds: no two names share a file, and none leads out of the folder.

Example: History(Path("runs/a")).add(records) -> prompts that were decided otherwise than the last time
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

FOLDER = "history"
LONGEST = 200
"""Bytes of a file's name; longer ones end in a digest of the whole name."""


def file_name(uid: str) -> str:
    """Of a prompt's history.

    >>> file_name("train-7"), file_name("../a/b"), file_name("")
    ('train-7.jsonl', '%2E.%2Fa%2Fb.jsonl', '%.jsonl')
    """
    safe = quote(uid, safe="", errors="surrogatepass") or "%"
    if safe.startswith("."):
        safe = f"%2E{safe[1:]}"
    if len(safe) > LONGEST:
        digest = hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()
        safe = f"{safe[: LONGEST - 65]}%{digest}"
    return f"{safe}.jsonl"


def line_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a history says of one record of a step."""
    n, k = record["n"], record["successes"]
    line = {"step": record["step"], "n": n, "k": k, "decision": record["decision"]}
    line["mean_reward"] = record.get("mean_reward")
    return {**line, "solve_none": bool(n) and k == 0, "solve_all": bool(n) and k == n}


class History:
    """All files of a run; remembers the last decision of each prompt."""

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER
        self._last: dict[str, str] = {}

    def begin(self, step: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Before the first step: takes back what lies behind `step`; `records` are all lines of `decisions.jsonl`."""
        self._last = {}
        behind = set()
        for record in records:
            if record["step"] > step:
                behind.add(record["uid"])
            elif record["n"]:
                self._last[record["uid"]] = record["decision"]
        for uid in behind:
            self._take_back(self.folder / file_name(uid), step)

    def add(self, records: Sequence[Mapping[str, Any]]) -> int:
        """A step's; answers how many prompts were decided otherwise than the last time."""
        flipped = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        for record in records:
            uid, decision = record["uid"], record["decision"]
            with (self.folder / file_name(uid)).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line_of(record)) + "\n")
            if record["n"]:
                flipped += self._last.get(uid, decision) != decision
                self._last[uid] = decision
        return flipped

    def _take_back(self, path: Path, step: int) -> None:
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue  # torn by the end of its writer
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
