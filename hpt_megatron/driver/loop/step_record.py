"""What a step was made of and what came out, in files: everything that it takes to work it out again.

    RUN/steps/step_7/step.json                        configuration, the algorithm's state, decisions, reports
    RUN/steps/step_7/round_1_rollouts.safetensors     rows of a round as they were collected, with their images
    RUN/steps/step_7/round_1_demonstrations.safetensors
    RUN/steps/step_7/before_credit.safetensors        rows of the step, with every log-prob and value that was asked for
    RUN/steps/step_7/credited.safetensors             the same with credit
    RUN/steps/step_7/update_1.safetensors             rows of an optimizer step, with the weights of their tokens

Every `trainer.record_freq`-th step is written, the first one among them: 1, k + 1, 2 k + 1, so that with `save_freq` of
the same the weights before each stand in a checkpoint. `replay.py` reads it.

Invariants
    1. What is written is what the loop had in its hands; nothing is computed for the record.
    2. A step that is not due costs nothing, and one that is leaves nothing changed.
    3. A folder has its name when the step is over and everything is in it.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.prompts import Prompt
from hpt_megatron.driver.loop.algorithm import Algorithm, Decided
from hpt_megatron.driver.loop.roles import Collected
from hpt_megatron.protocol import batch_file
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.rows import Rows
from hpt_megatron.protocol.step_report import StepReport

STEPS, STEP = "steps", "step.json"
VERSION = 1
ROLLOUTS, DEMONSTRATIONS = "round_{}_rollouts.safetensors", "round_{}_demonstrations.safetensors"
BEFORE, CREDITED, UPDATE = "before_credit.safetensors", "credited.safetensors", "update_{}.safetensors"


class StepRecord:
    """Writes the steps that are due; see the module."""

    def __init__(self, run: RunConfig) -> None:
        self.run, self.every = run, run.trainer.record_freq
        self.folder = Path(run.trainer.run_dir) / STEPS
        self._open: Path | None = None
        self._told: dict[str, Any] = {}

    def begin(self, step: int, algorithm: Algorithm) -> None:
        """Before anything of a step is done."""
        self._open = None
        if self.every < 1 or (step - 1) % self.every:
            return
        self._open = self.folder / f"step_{step}.new"
        shutil.rmtree(self._open, ignore_errors=True)
        self._open.mkdir(parents=True)
        self._told = {"version": VERSION, "step": step, "threads": torch.get_num_threads()}
        self._told |= {"run": asdict(self.run), "state": algorithm.state(), "rounds": [], "updates": []}

    def round(self, prompts: Sequence[Prompt], collected: Collected, demonstrations: Batch, decided: Decided) -> None:
        """Of the rollouts of some prompts, or of their demonstrations alone, and what was decided."""
        if self._open is None:
            return
        number = len(self._told["rounds"]) + 1
        batch_file.save(collected.batch, self._open / ROLLOUTS.format(number))
        batch_file.save(demonstrations, self._open / DEMONSTRATIONS.format(number))
        of_prompts = [{"index": each.index, "target_ids": list(each.target_ids)} for each in prompts]
        self._told["rounds"].append({"prompts": of_prompts, "targets": _by_name(collected), **decided_of(decided)})

    def credit(self, before: Batch, credited: Rows) -> None:
        """Rows before and after; `before` holds what models said of them."""
        if self._open is not None:
            batch_file.save(Batch.of_text(before.rows), self._open / BEFORE)
            batch_file.save(Batch.of_text(credited), self._open / CREDITED)

    def update(self, weighted: Batch, report: StepReport) -> StepReport:
        """Of an optimizer step of the policy; answers its report."""
        if self._open is not None:
            self._told["updates"].append({**asdict(report)})
            batch_file.save(Batch.of_text(weighted.rows), self._open / UPDATE.format(len(self._told["updates"])))
        return report

    def end(self, algorithm: Algorithm) -> None:
        """The step is over."""
        if self._open is None:
            return
        self._told["state_after"] = algorithm.state()
        (self._open / STEP).write_text(json.dumps(self._told, indent=1) + "\n", encoding="utf-8")
        final = self._open.with_suffix("")
        shutil.rmtree(final, ignore_errors=True)
        self._open.rename(final)
        self._open = None


def decided_of(decided: Decided) -> dict[str, Any]:
    """Decisions as plain JSON; the same for the same decisions."""
    return {
        "outcomes": [asdict(outcome) for outcome in decided.outcomes],
        "decisions": [asdict(decision) for decision in decided.decisions],
        "kept": list(decided.kept),
    }


def _by_name(collected: Collected) -> Mapping[str, Mapping[str, float]]:
    return {str(place): dict(scores) for place, scores in collected.targets.items()}
