"""Nodes of an attempt tell each other what they have come to, by files in its folder.

    ATTEMPT/node_1.json    {"rank": 1, "node": "node2", "state": "healthy", ...}; the last word of the node

Decision: files and no port, because a node that cannot see the folder could not take part anyway, and because what was
said is still there when somebody asks why a job did not start.

Example: meeting = Meeting(attempt, rank=1, nodes=2); meeting.say("ready"); meeting.wait(600)
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLL_S = 0.2
STOP = "stop"
"""A file: somebody wants the attempt to save and to end."""
LAST = ("unhealthy", "failed", "ended")
"""After these a node says nothing more."""


@dataclass
class Meeting:
    """One node's side."""

    attempt: Path
    rank: int
    nodes: int
    about: dict[str, Any] = field(default_factory=dict)

    def say(self, state: str, **facts: Any) -> None:
        """Whole or not at all, whoever reads."""
        self.about |= facts | {"process": os.getpid()}
        path = self.attempt / f"node_{self.rank}.json"
        told = {"rank": self.rank, "state": state, "at": time.time(), **self.about}
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(told) + "\n", encoding="utf-8")
        beside.replace(path)

    def heard(self) -> dict[int, dict[str, Any]]:
        """The last word of every node that has said one."""
        return heard(self.attempt)

    def wait(self, deadline: float, until: Callable[[dict[int, dict[str, Any]]], bool], dead: Callable[[], str]) -> str:
        """Until it is so, or somebody ended, or the time is over; answers why it is not so, or nothing."""
        while True:
            said = self.heard()
            if until(said):
                return ""
            over = {rank: each for rank, each in said.items() if each["state"] in LAST}
            if over:
                return "; ".join(f"{each['node']} {each['state']}: {each.get('why', '')}" for each in over.values())
            if why := dead():
                return why
            if (self.attempt / STOP).exists():
                return "asked to stop"
            if time.monotonic() > deadline:
                missing = sorted({*range(self.nodes)} - said.keys())
                return f"the time to meet is over; nothing was heard of nodes {missing}, the others: {states(said)}"
            time.sleep(POLL_S)


def heard(attempt: Path) -> dict[int, dict[str, Any]]:
    """What the nodes of an attempt said last, by rank."""
    found = {}
    for path in attempt.glob("node_*.json"):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            found[int(told["rank"])] = told
        except (OSError, ValueError, KeyError):
            continue  # being replaced on a slow file system
    return found


def states(said: dict[int, dict[str, Any]]) -> str:
    """In a few words."""
    return ", ".join(f"{each['node']} {each['state']}" for _, each in sorted(said.items())) or "none"
