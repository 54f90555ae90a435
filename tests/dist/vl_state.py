"""What the tests of saved state look at: moments by name, counts, and what the next random draws are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from small_vl import held, plain, started

from hpt_megatron.config.run import RunConfig
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.mcore.model.named import parameters_of, whole
from hpt_megatron.mcore.step.offload import at_hand
from hpt_megatron.mcore.worker import MegatronWorker
from hpt_megatron.parity.rows import components
from hpt_megatron.protocol.batch import Batch

STATES = ("param", "exp_avg", "exp_avg_sq")  # as megatron-core calls them; `param` is the float32 copy


@dataclass
class Seen:
    """A state as one process sees it, and the steps that followed."""

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    moments: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    draws: list[torch.Tensor] = field(default_factory=list)
    steps: list[tuple[dict[str, float], float, float]] = field(default_factory=list)
    after: dict[str, torch.Tensor] = field(default_factory=dict)


def moments(worker: MegatronWorker) -> Iterator[tuple[str, torch.Tensor]]:
    """Moments and float32 copies of every trained tensor of the checkpoint that this stage holds, whole."""
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    for name, param in parameters_of(worker.models):
        if not param.requires_grad or (name == "output_layer.weight" and worker.table.model.tie_word_embeddings):
            continue
        pieces = torch.zeros(len(STATES), param.numel())
        for part in worker.optimizer.chained_optimizers:
            if not part.is_stub_optimizer and param in part.model_param_group_index_map:
                span = part._get_model_param_range_map(param)["param"]
                state = part._get_main_param_and_optimizer_states(param)
                pieces[:, span.start : span.end] = torch.stack([state[key].flatten() for key in STATES])
        dist.all_reduce(pieces, group=group)  # every element is on one rank, and 0 on the others
        for key, flat in zip(STATES, pieces, strict=True):
            yield from ((f"{each} {key}", tensor) for each, tensor in whole(name, flat.view(param.shape), worker.table))


def counts(worker: MegatronWorker) -> dict[str, Any]:
    """What is counted, and the optimizer's last rate, of all groups alike."""
    groups = [
        group
        for part in worker.optimizer.chained_optimizers
        if not part.is_stub_optimizer
        for group in part.param_groups
    ]
    return {
        "steps": worker.steps,
        "skipped": worker.skipped,
        "optimizer": {(group["step"], group["lr"]) for group in groups},
    }


def draws() -> list[torch.Tensor]:
    """Three numbers of each generator, which move on."""
    drawn = [torch.rand(3)]
    for name in sorted(tensor_parallel.get_cuda_rng_tracker().get_states()):
        with tensor_parallel.get_cuda_rng_tracker().fork(name):
            drawn.append(torch.rand(3))
    return drawn


def take(worker: MegatronWorker, batch: Batch, number: int) -> list[tuple[dict[str, float], float, float]]:
    """Steps on one batch: losses, norm and learning rate of each."""
    seen = []
    for _ in range(number):
        report = worker.update(worker.split(batch), components(), plain(worker))
        assert not report.skipped, report.skipped
        seen.append((dict(report.losses), report.grad_norm, report.lr))
    return seen


def look(worker: MegatronWorker, batch: Batch, more: int) -> Seen:
    """The state as it is, and some steps from it."""
    with at_hand(worker.optimizer, worker.run.trainer.optimizer_offload):
        seen = Seen(held(worker), dict(moments(worker)), counts(worker))
    if not worker.speaks:
        seen.moments = {}
    seen.draws = draws()
    seen.steps = take(worker, batch, more)
    seen.after = held(worker)
    return seen


def train_and_save(where: Rendezvous, config: RunConfig, batch: Batch, cheap: str, last: str, more: int) -> Seen:
    """Two steps, a checkpoint in either format, and what follows without a disturbance."""
    worker = started(where, config)
    draws()  # so that the states are not those of a start
    take(worker, batch, 2)
    worker.save(cheap)
    worker.save(last, {"epoch": 3}, last=True)
    return look(worker, batch, more)


def restore_and_look(where: Rendezvous, config: RunConfig, batch: Batch, folder: str, more: int) -> Seen:
    """What fresh processes find, and what follows."""
    worker = started(where, config)
    extra = worker.restore(folder)
    seen = look(worker, batch, more)
    seen.counts["extra"] = extra
    return seen


def together(seen: Sequence[Seen]) -> Seen:
    """One state from what all processes hold."""
    first = seen[0]
    groups: set[Any] = set().union(*(each.counts["optimizer"] for each in seen))
    weights, moved, after = (
        {name: tensor for each in seen for name, tensor in getattr(each, kind).items()}
        for kind in ("weights", "moments", "after")
    )
    return Seen(weights, moved, {**first.counts, "optimizer": groups}, first.draws, first.steps, after)


def unequal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> list[str]:
    """Names that one side lacks, or whose tensors differ in a bit."""
    both = ours.keys() & theirs.keys()
    return sorted((ours.keys() ^ theirs.keys()) | {name for name in both if not torch.equal(ours[name], theirs[name])})
