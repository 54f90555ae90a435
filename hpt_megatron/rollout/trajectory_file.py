"""Trajectories as JSON lines, for people and for programs that look at a run afterwards.

One line each: uid, sample, step, finish, answer, turns (text, action, body, outcome, pages, tokens, seconds), images
(page, region, grid), retrieved, a summary of the masks (`tokens` in all, `spans` in their order), counters, seconds,
and the components of the reward where they are given.

Invariant: a line is written whole and at once; a file can be read while it grows.

Example: append(Path("samples/step_3.jsonl"), trajectories, scores={("7", 0): {"ndcg": 1.0, "total": 1.0}}, step=3)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from hpt_megatron.rollout.trajectory import Trajectory, summary

Scores = Mapping[tuple[str, int], Mapping[str, float]]


def line_of(done: Trajectory, scores: Mapping[str, float] | None = None, step: int = 0) -> dict[str, Any]:
    """What is written of one trajectory."""
    parts = dict(scores or {})
    return {
        "kind": "trajectory",
        "uid": done.uid,
        "sample": done.sample,
        "step": step,
        "finish": done.finish,
        "valid": done.valid,
        "answer": done.answer,
        "total": parts.pop("total", None),
        "components": parts,
        "turns": [asdict(note) for note in done.turns],
        "images": [summary(view) for view in done.images],
        "retrieved": list(done.retrieved),
        "tokens": {
            "all": len(done.ids),
            "prompt": done.num_prompt,
            "sampled": done.num_sampled,
            "observed": done.num_response - done.num_sampled,
        },
        "spans": spans(done),
        "versions": sorted({version for version in done.versions if version}),
        "counters": dict(done.counters),
        "seconds": dict(done.seconds),
    }


def spans(done: Trajectory) -> list[tuple[str, int]]:
    """Whose its tokens are, from the first to the last, and how many: prompt, prefix, turn, observation.

    >>> from hpt_megatron.rollout.trajectory import Builder
    >>> builder = Builder("7", 0)
    >>> builder.prompt([1, 2]); builder.turn([5, 6], [-0.1, -0.2], ["3", "3"]); builder.observe([8])
    >>> spans(builder.freeze("length"))
    [('prompt', 2), ('turn', 2), ('observation', 1)]
    """

    def whose(pair: tuple[int, int]) -> str:
        turn, prefix = pair
        return "prefix" if prefix else "prompt" if turn == -1 else "turn" if turn > 0 else "observation"

    pairs = zip(done.turn_id, done.prefix_mask, strict=True)
    return [(kind, sum(1 for _ in own)) for kind, own in groupby(map(whose, pairs))]


def append(path: Path, done: Sequence[Trajectory], scores: Scores | None = None, step: int = 0) -> None:
    """Behind what is there."""
    told = [line_of(one, (scores or {}).get((one.uid, one.sample)), step) for one in done]
    text = "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in told)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
