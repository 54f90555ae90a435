"""Micro-batches through the pipeline: megatron-core's schedules, and what is collected from the last stage."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from hpt_megatron.mcore.model.log_probs import Sampling
from hpt_megatron.mcore.model.stage import Said, Want
from hpt_megatron.mcore.packing.pack import Pack

Finish = Callable[[Pack, Said], tuple[Tensor, Any]]


def run_schedule(
    models: Sequence[Any], packs: Sequence[Pack], finish: Finish, how: Sampling, want: Want, train: bool
) -> list[Any]:
    """Forward, and backward where there is training; answers what `finish` kept of each micro-batch, on the last stage.

    `finish` turns what the head says into a loss and something to keep. The loss is summed, never divided: the
    three-value form with a count that nobody uses (megatron-core multiplies the two-value form by cp and divides it by
    the number of micro-batches).
    """

    def forward_step(data: Any, model: Any) -> tuple[Any, Any]:
        pack = next(data)
        return model(pack, how, want), partial(keep, pack)

    def keep(pack: Pack, said: Said) -> tuple[Tensor, Tensor, Any]:
        loss, kept = finish(pack, said)
        return loss, torch.zeros((), dtype=torch.int, device=loss.device), kept

    kept: list[Any] = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(packs) for _ in models],
        model=list(models),
        num_microbatches=len(packs),
        seq_length=packs[0].total,
        micro_batch_size=1,
        forward_only=not train,
    )
    return kept
