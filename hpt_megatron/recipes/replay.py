"""`hpt replay`: a recorded step worked out again in one process, its loss and gradient norm included.

The loss needs the weights before the step: the model that the run began with for the first step, a checkpoint of the
step before for others. It is loaded into one process, whatever layout the run had, so what is compared is the same sum
in another order: equal within a tolerance, relative to max(1, the number). Of a step with several updates that is the
first one: those behind it need the moments that the first one left.

Example: replay(Path("runs/a"), 7)
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpt_megatron.algorithms.objective.part import Component
from hpt_megatron.config.run import RunConfig
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.checkpoints import problem_of
from hpt_megatron.driver.loop.replay import Line, Recorded, again, read
from hpt_megatron.driver.loop.run import CHECKPOINTS
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.step_report import StepReport
from hpt_megatron.recipes.files import MODEL

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
LOSS = "loss"


def replay(folder: Path, step: int, tolerance: float | None = None, with_loss: bool = True) -> list[Line]:
    """One line for each part of a step: routing, rows, credit, weights, loss."""
    recorded = read(folder, step)
    lines, ready = again(recorded)
    if not all(line.agrees for line in lines):
        return lines
    if not with_loss:
        return [*lines, Line(LOSS, None, "not asked for")]
    return [*lines, _loss(folder, recorded, ready, tolerance or TOLERANCE[recorded.run.trainer.dtype])]


def _loss(folder: Path, recorded: Recorded, ready: list[Batch], tolerance: float) -> Line:
    if not ready:
        return Line(LOSS, None, "the step has no update")
    model = model_of(folder, recorded.run)
    if model is None:
        return Line(LOSS, None, f"not worked out again: the model {recorded.run.model.path} is not there")
    checkpoint = None
    if recorded.step > 1:
        checkpoint = folder / CHECKPOINTS / f"step_{recorded.step - 1}"
        if problem := "it is not there" if not checkpoint.is_dir() else problem_of(checkpoint):
            return Line(LOSS, None, f"not worked out again: it needs the checkpoint {checkpoint.name}, and {problem}")
        checkpoint = checkpoint / "trainer"
    report = computed(alone(recorded.run, model), checkpoint, ready[0], Algorithm(recorded.run).components)
    return compared(recorded.reports, report, tolerance)


def model_of(folder: Path, run: RunConfig) -> str | None:
    """The folder of the model that a run began with: where it was, or in the run's own folder where that moved."""
    own = folder / MODEL
    for path in (run.model.path, str(own)):
        if path is not None and Path(path).is_dir():
            return path
    return None


def alone(run: RunConfig, model: str) -> RunConfig:
    """The same run in one process."""
    layout = replace(run.layout, tp=1, pp=1, vpp=1, cp=1, dp=1, sequence_parallel=None)
    longest = run.trainer.ppo_max_token_len_per_gpu * run.layout.cp
    trainer = replace(run.trainer, nnodes=1, n_gpus_per_node=1, optimizer_offload=False)
    trainer = replace(trainer, ppo_max_token_len_per_gpu=longest)
    return replace(run, model=replace(run.model, path=model), layout=layout, trainer=trainer)


def computed(run: RunConfig, checkpoint: Path | None, batch: Batch, components: Sequence[Component]) -> StepReport:
    """What an optimizer step says in this process, whose weights are then thrown away."""
    from hpt_megatron.data.chat import Chat
    from hpt_megatron.mcore.initialize import Rendezvous
    from hpt_megatron.mcore.worker import MegatronWorker
    from hpt_megatron.rollout.engine.forbidden import forbidden_ids

    forbidden = forbidden_ids(Chat.open(str(run.model.path)), run.model.vocab_size)
    worker = MegatronWorker(run, forbidden=forbidden)
    worker.start(Rendezvous())
    try:
        if checkpoint is not None:
            worker.restore(checkpoint, weights_alone=True)
        return worker.update(worker.split(batch), components)
    finally:
        worker.stop()


def compared(recorded: Sequence[StepReport], now: StepReport, tolerance: float) -> Line:
    """Losses by component and the gradient's norm of the first update."""
    was = recorded[0]
    numbers = {f"loss of {name}": (was.losses.get(name), loss) for name, loss in now.losses.items()}
    numbers["gradient norm"] = (was.grad_norm, now.grad_norm)
    told, agrees = [], set(was.losses) == set(now.losses)
    for name, (before, after) in numbers.items():
        same = before is not None and abs(before - after) <= tolerance * max(1.0, abs(before), abs(after))
        agrees &= same
        told.append(f"{name} {after:.6g}" + ("" if same else f" where {before} was recorded"))
    if was.skipped != now.skipped:
        agrees = False
        told.append(f"skipped: {now.skipped!r} where {was.skipped!r} was recorded")
    more = f"; the first of {len(recorded)} updates" if len(recorded) > 1 else ""
    return Line(LOSS, agrees, f"{', '.join(told)}; within {tolerance:g}{more}")
