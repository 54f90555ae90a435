"""What the stages of a pipeline came to: one line each, first and last of the numbers that such a stage is about.

    pipeline.json     every stage: steps, seconds, first and last of its numbers
    pipeline.md       the same as a table

Example: write(["sft", "reward", "ppo"], Path("runs/rlhf"))
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpt_megatron.errors import UserError
from hpt_megatron.report.folder import read
from hpt_megatron.report.markdown import rows

NAME = "pipeline"
TOLD = (
    *("actor/sft_loss", "val/demo_loss", "val/pairs/accuracy", "val/pairs/ece", "val/mean_score", "val/base_loss"),
    *("reward/mean", "reward/learned/mean", "kl/sequence", "response_length/mean", "critic/vf_explained_var"),
)


def write(stages: Sequence[str], folder: Path) -> list[Path]:
    """Both files, of the stages that have begun."""
    found = {name: told for name in stages if (told := told_of(folder / name))}
    if not found:
        raise UserError("no stage has begun", where=str(folder), mend="`hpt pipeline NAME` runs them")
    written = [folder / f"{NAME}.json", folder / f"{NAME}.md"]
    written[0].write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = [
        [name, f"{told['steps']:.0f}", f"{told['seconds']:.0f}", metric, f"{first:.3f}", f"{last:.3f}"]
        for name, told in found.items()
        for metric, (first, last) in told["numbers"].items()
    ]
    header = ["stage", "steps", "seconds of steps", "number", "first", "last"]
    written[1].write_text("\n".join(rows(lines, header)) + "\n", encoding="utf-8")
    return written


def told_of(folder: Path) -> Mapping[str, Any]:
    """Of one stage; nothing where it has no step yet."""
    try:
        run = read(folder)
    except UserError:
        return {}
    numbers: dict[str, tuple[float, float]] = {}
    for name in TOLD:
        values = [told[name] for told in [*run.validations, *run.steps] if name in told]
        if values:
            numbers[name] = (values[0], values[-1])
    seconds = sum(step.get("timing_s/step", 0.0) for step in run.steps)
    return {"steps": run.last, "seconds": seconds, "ended": run.ended, "numbers": numbers}
