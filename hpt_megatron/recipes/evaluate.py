"""`hpt eval`: how good a model is at the prompts of some files, measured with the engine, agent and rewards of a run.

Decision: the same `Rollouts` as in the loop, on one engine of this process; nothing is trained, so there is neither a
trainer nor Ray. A checkpoint of a trainer is exported first, for an engine reads the hub's format.

    OUT/eval.json                  the figures, with intervals, and what each prompt came to
    OUT/rollouts/validate_0.jsonl  every trajectory
    OUT/model/                     the exported checkpoint, where one was given

Example: evaluate(run, Path("runs/a/eval"), [1, 8], sys.stdout)
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.build import val_prompts
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.record import Record
from hpt_megatron.driver.loop.checkpoints import MANIFEST, read
from hpt_megatron.driver.loop.roles import Asked
from hpt_megatron.driver.loop.rollouts import Rollouts
from hpt_megatron.driver.loop.validation import grouped
from hpt_megatron.errors import UserError
from hpt_megatron.observe.generations import ROLLOUTS
from hpt_megatron.observe.pass_rates import figures, powers
from hpt_megatron.recipes.files import with_files
from hpt_megatron.rollout.agent.build import check_search, instructing
from hpt_megatron.rollout.engine.build import engine_of

RESULT, MODEL, TRAINER = "eval.json", "model", "trainer"


def check_room(out: Path) -> None:
    """Refuses a folder in which an evaluation lies already."""
    if (out / RESULT).exists() or (out / ROLLOUTS).exists() or (out / MODEL).exists():
        raise UserError("holds an evaluation", where=str(out), mend="another --out")


def exported(checkpoint: Path, out: Path) -> Path:
    """The folder of the hub that a trainer's checkpoint becomes."""
    if not checkpoint.is_dir():
        raise UserError("no such checkpoint", where=str(checkpoint), mend="RUN/checkpoints/step_N")
    if (checkpoint / MANIFEST).is_file() and (checkpoint / TRAINER).is_dir():
        read(checkpoint)  # which refuses one that was harmed
        checkpoint = checkpoint / TRAINER
    from hpt_megatron.weights.execute.exporting import export_checkpoint

    export_checkpoint(checkpoint, out / MODEL)
    return out / MODEL


def evaluate(asked: RunConfig, out: Path, ks: Sequence[int], shown: TextIO) -> dict[str, Any]:
    """Starts an engine, asks it, and writes what comes out."""
    _check_samples(asked, ks)
    made = replace(asked, data=replace(asked.data, make=None)) if asked.data.val_files else asked
    run = with_files(made, Path(asked.trainer.run_dir))
    check_search(run)
    folder = str(run.model.path)
    chat = Chat.open(folder)
    prompts = val_prompts(run.data, chat, PictureRules.of_folder(folder), instructing(run))
    records = [prompts[name].record for name in prompts.names]
    if not records:
        told = ", ".join(f"{name} {number}" for name, number in prompts.report.items() if number)
        what = f"no prompt can be used ({told})" if told else "no file is given"
        raise UserError(what, where="data.val_files", mend="`hpt data inspect FILE --model FOLDER` says why")
    shown.write(f"{len(records)} prompts, {run.rollout.n_val} responses each, from {folder}\n")
    shown.flush()
    engine = engine_of(run, folder, chat)
    try:
        engine.start()
        return measured(run, engine, records, out, ks)
    finally:
        engine.stop()


def _check_samples(run: RunConfig, ks: Sequence[int]) -> None:
    rollout, most = run.rollout, run.rollout.n_val
    if most > 1 and rollout.val_temperature == 0:
        what = f"0 is greedy: the {most} responses to a prompt would be one and the same"
        raise UserError(what, where="rollout.val_temperature", mend="0.6, or rollout.n_val=1")
    if over := [k for k in ks if k > most]:
        mend = f"at most {most}, or rollout.n_val={over[0]}"
        raise UserError(f"pass@{over[0]} needs {over[0]} responses to a prompt", where="--k", mend=mend)


def measured(run: RunConfig, engine: Any, records: Sequence[Record], out: Path, ks: Sequence[int]) -> dict[str, Any]:
    """Asks a started engine for responses to every prompt, scores them, and writes what comes out."""
    samples, began = run.rollout.n_val, time.perf_counter()
    rollouts = Rollouts(run, engine, str(run.model.path), written=out / ROLLOUTS)
    try:
        rollouts.agent.probe()
        places = tuple(range(len(records)))
        asked = Asked(records=tuple(records), places=places, samples=samples, step=0, purpose="validate")
        collected = rollouts.collect(asked)
    finally:
        rollouts.close()
    groups, counts = grouped(run, records, collected)
    scored = [group for group in groups if group.scores]
    if not scored:
        raise UserError("no response could be scored", where=str(out), mend=f"look at {out / ROLLOUTS}")
    found = figures(scored, list(ks) or powers(samples), run.trainer.seed)
    rollout = run.rollout
    told = {
        "model": run.model.path,
        "files": list(run.data.val_files),
        "sampling": {"n": samples, "temperature": rollout.val_temperature, "top_p": rollout.val_top_p},
        "seed": run.trainer.seed,
        "seconds": round(time.perf_counter() - began, 3),
        **counts,
        "figures": {source: {name: asdict(one) for name, one in each.items()} for source, each in found.items()},
        "metrics": dict(collected.metrics),
        "by_prompt": [
            {"uid": record.index, "data_source": group.source, "scores": group.scores, "right": sum(group.successes)}
            for record, group in zip(records, groups, strict=True)
        ],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULT).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told
