"""What the model answers at each validation, for people: a few prompts, the same ones every time.

    RUN/generation_logs/generation_log_step_20.json
    [{"eval_step": 20, "sample_index": 0, "prompt": "...", "generated": "...", "full_response": "...", "uid": "7",
      "score": 1.0}]

`generated` is cut to be read, `full_response` never; a conversation's turns stand one after the other in it. All
trajectories, with tools, images and rewards, are in `rollouts/validate_20.jsonl`; this is a selection of them.

Example: write_generations(Path("runs/a"), 20, Generations(5), questions)
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import Any

ROLLOUTS, FOLDER = "rollouts", "generation_logs"
SHOWN = 200
"""Characters of `generated`."""


@dataclass(frozen=True)
class Generations:
    """How many prompts, 0 for none, and where else than in the run's folder."""

    most: int
    folder: Path | None = None


def write_generations(run: Path, step: int, how: Generations, questions: Mapping[str, str]) -> Path | None:
    """The log of one validation, from its trajectories; None where there is nothing to log."""
    source = run / ROLLOUTS / f"validate_{step}.jsonl"
    if how.most < 1 or not source.is_file():
        return None
    with source.open(encoding="utf-8") as lines:
        chosen = nsmallest(how.most, _first_samples(lines), key=lambda each: str(each["uid"]))
    entries = [entry(number, step, each, questions) for number, each in enumerate(chosen)]
    folder = how.folder or run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"generation_log_step_{step}.json"
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")
    return path


def entry(number: int, step: int, told: Mapping[str, Any], questions: Mapping[str, str]) -> dict[str, Any]:
    """One trajectory as it is logged."""
    whole = "\n".join(turn.get("text", "") for turn in told.get("turns", []))
    return {
        "eval_step": step,
        "sample_index": number,
        "prompt": questions.get(told["uid"], ""),
        "generated": whole if len(whole) <= SHOWN else f"{whole[:SHOWN]}...",
        "full_response": whole,
        "uid": told["uid"],
        "score": told.get("total"),
    }


def _first_samples(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            continue  # torn by the end of its writer
        if told.get("kind") == "trajectory" and told.get("sample") == 0:
            yield told
