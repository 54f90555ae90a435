"""Data-parallel wrappers, the distributed optimizer, and one guarded optimizer step.

Decisions
    1. Parameters keep the run's precision; the optimizer keeps float32 copies and moments, cut over data and context
       parallelism. Gradients are reduced in float32.
    2. The norm is looked at before anything moves: a step whose norm is no number, or above the bound, changes nothing.
    3. Frozen parameters are switched off before they are wrapped, so they get no gradient buffer and no moments. A
       stage with nothing to train has an optimizer that only takes part in the norm.
"""

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.transformer.transformer_config import TransformerConfig

from hpt_megatron.config.run import TrainerConfig
from hpt_megatron.layout.sizes import GRADIENT_BUCKET


def wrap(
    models: list[Any], config: TransformerConfig, trainer: TrainerConfig, bucket: int = GRADIENT_BUCKET
) -> list[Any]:
    """The stages of this process, with gradient buffers and what the schedules need to know of them."""
    overlap = trainer.overlap_communication
    ddp = DistributedDataParallelConfig(
        use_distributed_optimizer=True,
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=overlap,
        overlap_param_gather=overlap,
        bucket_size=bucket,
    )
    wrapped = [DistributedDataParallel(config, ddp, model) for model in models]
    config.finalize_model_grads_func = _finalize
    if overlap:
        waits = [model.no_sync for model in wrapped]
        config.no_sync_func = waits if len(waits) > 1 else waits[0]
    return wrapped


def _finalize(models: list[Any], num_tokens: torch.Tensor | None = None, **groups: Any) -> None:
    """Weights are normalised already: the schedule's count of tokens must not divide anything."""
    finalize_model_grads(models, None, **groups)


def build_optimizer(models: list[Any], config: TransformerConfig, trainer: TrainerConfig) -> Any:
    """AdamW over everything that is trained."""
    first, second = trainer.adam_betas
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=trainer.lr,
            weight_decay=trainer.weight_decay,
            adam_beta1=first,
            adam_beta2=second,
            clip_grad=trainer.clip_grad,
            bf16=config.bf16,
            params_dtype=config.params_dtype,
            use_distributed_optimizer=True,
            overlap_param_gather=trainer.overlap_communication,
        ),
        models,
    )
    config.grad_scale_func = optimizer.scale_loss
    return optimizer


@dataclass(frozen=True)
class Moved:
    """What an optimizer step did: the norm before clipping, and why nothing moved where nothing did."""

    grad_norm: float
    skipped: str = ""


@torch.no_grad()
def take_step(optimizer: Any, rate: float, clip: float, largest: float | None, problem: str) -> Moved:
    """Clips and steps, or leaves everything as it is; all processes come to the same decision.

    `problem` is what another check has found already, on all processes alike.
    """
    optimizer.prepare_grads()
    norm = float(optimizer.get_grad_norm())
    if not problem and not torch.isfinite(torch.tensor(norm)):
        problem = f"the gradient's norm is {norm}"
    if not problem and largest is not None and norm > largest:
        problem = f"the gradient's norm {norm:.4g} is above {largest:g} (trainer.max_grad_norm)"
    if problem:
        return Moved(norm, problem)
    for part in optimizer.chained_optimizers:
        for group in [] if part.is_stub_optimizer else part.param_groups:
            group["lr"] = rate
        params = [] if part.is_stub_optimizer else part.get_parameters()
        if params and clip > 0:
            clip_grad_by_total_norm_fp32(params, clip, norm)
    optimizer.step_with_ready_grads()
    return Moved(norm)
