"""From micro-batches to what a step says about itself, and which rows hold what is no number."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from hpt_megatron.mcore.model.stage import Said
from hpt_megatron.mcore.packing.pack import Pack
from hpt_megatron.mcore.step.optimizer import Moved
from hpt_megatron.mcore.step.shares import Sums
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.step_report import StepReport


def moved(report: StepReport, step: Moved, rate: float) -> StepReport:
    """The same with what the optimizer did."""
    return replace(report, grad_norm=step.grad_norm, skipped=step.skipped, lr=rate)


def bad_rows(pack: Pack, said: Said, loss: Tensor) -> list[int]:
    """Rows of a micro-batch whose numbers are not finite; all of its rows when none of them stands out."""
    if bool(torch.isfinite(loss)):
        return []
    numbers = said.logp if said.logp is not None else said.value
    columns = [numbers, said.entropy, *pack.columns.values()]
    finite = [torch.isfinite(column.float()) for column in columns if column is not None]
    odd = ~torch.stack([each if each.dim() == 1 else each.all(-1) for each in finite]).all(0)
    rows = pack.row[odd].unique().tolist() or pack.row.unique().tolist()
    return [int(row) for row in rows]


def no_numbers(parts: Sequence[Batch], packs: Sequence[Pack], bad: Sequence[Sequence[int]]) -> list[str]:
    """The rows of micro-batches with a loss that is no number, or else those whose gradient left the head as none.

    `bad` is what `bad_rows` said of each micro-batch; stages before the last have nothing to say.
    """
    found = [f"loss in {part.name(row)}" for part, rows in zip(parts, bad, strict=bool(bad)) for row in rows]
    if found:
        return found
    for part, pack in zip(parts, packs, strict=True):
        if pack.odd:
            rows = pack.row[torch.stack(pack.odd).any(0)].unique().tolist()
            found += [f"gradient in {part.name(int(row))}" for row in rows]
    return found


def sum_up(kept: Sequence[tuple[Mapping[str, Tensor], Sums]], problem: str) -> StepReport:
    """Adds up micro-batches, context- and data-parallel ranks; other stages are told by the last one.

    A metric that counted nothing in the whole step is left out.
    Every rank of the last stage runs the same components, so it has the same names in the same order.
    """
    losses: dict[str, float] = {}
    sums: dict[str, tuple[float, float]] = {}
    for of_loss, of_metric in kept:
        for name, value in of_loss.items():
            losses[name] = losses.get(name, 0.0) + float(value)
        for name, (total, count) in of_metric.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + float(total), before[1] + float(count))
    if kept:
        flat = torch.tensor([*losses.values(), *(x for pair in sums.values() for x in pair)], dtype=torch.float64)
        flat = flat.to("cuda")
        dist.all_reduce(flat, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        numbers = flat.tolist()
        losses = dict(zip(losses, numbers, strict=False))
        pairs = numbers[len(losses) :]
        sums = {name: (pairs[2 * at], pairs[2 * at + 1]) for at, name in enumerate(sums)}
    means = {name: total / count for name, (total, count) in sums.items() if count}
    report = StepReport(losses, means, skipped=problem)
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        told = [report]
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast_object_list(told, src=last, group=parallel_state.get_pipeline_model_parallel_group())
        report = told[0]
    return report
