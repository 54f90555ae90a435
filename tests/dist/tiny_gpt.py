"""A two-layer GPT and its training step, the same in every layout: what the processes of a test run.

Weights are drawn per parameter from its global name and cut to this rank's part, so that all layouts start alike.
Batches are drawn from the step's number; some tokens are masked, so that ranks and micro-batches hold different counts.
"""

import zlib
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.utils import get_batch_on_this_cp_rank
from torch.nn import functional

from hpt_megatron.mcore.saved import checkpoint
from hpt_megatron.mcore.initialize import Rendezvous, initialize
from hpt_megatron.mcore.model.layer_spec import decoder_spec

VOCABULARY, LENGTH, ROWS, MICRO_ROWS = 384, 32, 8, 2


@dataclass(frozen=True)
class Case:
    """One way to train the same model; data parallelism is what the number of processes leaves."""

    tp: int = 1
    pp: int = 1
    cp: int = 1
    vpp: int | None = None
    bf16: bool = False
    recompute: bool = False
    overlap: bool = False
    dropout: float = 0.0
    layers: int = 2

    def alone(self) -> "Case":
        """The same in one process, without recomputation and overlap."""
        return replace(self, tp=1, pp=1, cp=1, vpp=None, recompute=False, overlap=False)


def transformer_config(case: Case) -> TransformerConfig:
    """Hidden size 64, four heads of 32, two groups of keys and values."""
    dtype = torch.bfloat16 if case.bf16 else torch.float32
    recompute = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return TransformerConfig(
        num_layers=case.layers,
        hidden_size=64,
        num_attention_heads=4,
        num_query_groups=2,
        kv_channels=32,
        ffn_hidden_size=160,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=functional.silu,
        add_bias_linear=False,
        add_qkv_bias=True,
        tensor_model_parallel_size=case.tp,
        pipeline_model_parallel_size=case.pp,
        virtual_pipeline_model_parallel_size=case.vpp,
        overlap_p2p_comm=bool(case.vpp),
        batch_p2p_comm=not case.vpp,
        context_parallel_size=case.cp,
        sequence_parallel=case.tp > 1,
        pipeline_dtype=dtype,
        params_dtype=dtype,
        bf16=case.bf16,
        hidden_dropout=case.dropout,
        attention_dropout=case.dropout,
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        calculate_per_token_loss=True,
        **(recompute if case.recompute else {}),
    )


def full_name(name: str, offset: int) -> str:
    """A parameter's name with the layer counted over the whole model."""
    parts = name.split(".")
    if "layers" in parts:
        parts[parts.index("layers") + 1] = str(int(parts[parts.index("layers") + 1]) + offset)
    return ".".join(parts)


def draw_weights(model: GPTModel) -> None:
    """Gives every parameter its part of a tensor that only its global name decides."""
    rank, ranks = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()
    offset = model.decoder.layers[0].layer_number - 1
    for name, param in model.named_parameters():
        cut = getattr(param, "partition_dim", -1) if getattr(param, "tensor_model_parallel", False) else -1
        shape = list(param.shape)
        if cut >= 0:
            shape[cut] *= ranks
        generator = torch.Generator().manual_seed(zlib.crc32(full_name(name, offset).encode()))
        full = torch.randn(shape, generator=generator) * 0.1 + (1 if "norm" in name else 0)
        if cut >= 0:  # gate and up projection stand one after the other, and each is cut
            halves = full.chunk(2) if "linear_fc1" in name else (full,)
            full = torch.cat([half.chunk(ranks, cut)[rank] for half in halves], cut)
        param.data.copy_(full)


class Trainer:
    """Model, optimizer and step of one process."""

    def __init__(self, case: Case) -> None:
        self.config = config = transformer_config(case)
        ddp = DistributedDataParallelConfig(
            use_distributed_optimizer=True,
            grad_reduce_in_fp32=True,
            overlap_grad_reduce=case.overlap,
            overlap_param_gather=case.overlap,
            bucket_size=30_000 if case.overlap else None,  # several buckets, so that there is something to overlap
        )
        stages = range(case.vpp) if case.vpp else [None]
        self.models = [DistributedDataParallel(config, ddp, self.stage(stage)) for stage in stages]
        self.optimizer = get_megatron_optimizer(
            OptimizerConfig(
                optimizer="adam",
                lr=2e-3,
                weight_decay=0.01,
                clip_grad=1.0,
                bf16=case.bf16,
                params_dtype=config.params_dtype,
                use_distributed_optimizer=True,
            ),
            self.models,
        )
        config.finalize_model_grads_func = finalize_model_grads
        config.grad_scale_func = self.optimizer.scale_loss
        if case.overlap:
            waits = [model.no_sync for model in self.models]
            config.no_sync_func = waits if case.vpp else waits[0]

    def stage(self, vp_stage: int | None) -> Any:
        """The layers of this pipeline rank, or of one of its virtual stages."""
        model = GPTModel(
            self.config,
            decoder_spec(self.config, vp_stage),
            vocab_size=VOCABULARY,
            max_sequence_length=LENGTH,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
            share_embeddings_and_output_weights=False,
            position_embedding_type="rope",
            vp_stage=vp_stage,
        )
        draw_weights(model)
        return Float16Module(self.config, model) if self.config.bf16 else model

    def micro_batches(self, step: int) -> list[dict[str, torch.Tensor]]:
        """This data- and context-parallel rank's part of the step's rows."""
        generator = torch.Generator().manual_seed(1000 + step % 2)
        ids = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=generator)
        mask = (torch.rand(ROWS, LENGTH, generator=generator) < 0.8).float()
        batch = {"tokens": ids[:, :-1], "labels": ids[:, 1:], "loss_mask": mask}
        rank, ranks = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
        mine = {key: value.chunk(ranks)[rank] for key, value in batch.items()}
        mine["position_ids"] = torch.arange(LENGTH).expand_as(mine["tokens"])
        split = {key: value.split(MICRO_ROWS) for key, value in mine.items()}
        cut = [{key: rows[i] for key, rows in split.items()} for i in range(len(split["tokens"]))]
        group = parallel_state.get_context_parallel_group()
        return [get_batch_on_this_cp_rank(micro, cp_group=group) for micro in cut]

    def step(self, step: int) -> tuple[float, float]:
        """One optimizer step; answers the mean loss per token of the whole batch, and the gradient norm."""
        micro_batches = self.micro_batches(step)
        for model in self.models:
            model.zero_grad_buffer()
        self.optimizer.zero_grad()
        seen = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=[iter(micro_batches) for _ in self.models],
            model=self.models,
            num_microbatches=len(micro_batches),
            seq_length=LENGTH,
            micro_batch_size=MICRO_ROWS,
            forward_only=False,
        )
        _, norm, _ = self.optimizer.step()
        total = torch.stack([each["loss"] for each in seen]).sum(0) if seen else torch.zeros(2, dtype=torch.float64)
        dist.all_reduce(total)
        # With tensor parallelism each loss is counted tp times, and so are the tokens.
        return (total[0] / total[1]).item(), float(norm)

    def train(self, first: int, last: int) -> list[tuple[float, float]]:
        """Several steps."""
        return [self.step(step) for step in range(first, last)]


def forward_step(data_iterator: Any, model: Any) -> tuple[torch.Tensor, Any]:
    """Megatron-core's forward step: the loss of every token, and what to make of it."""
    micro = next(data_iterator)
    out = model(micro["tokens"], micro["position_ids"], None, labels=micro["labels"])
    return out, partial(token_loss, micro["loss_mask"])


def token_loss(mask: torch.Tensor, losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """The three-value form: the sum, the number of tokens, and what to report."""
    loss, tokens = (losses.float() * mask).sum(), mask.sum()
    return loss, tokens.int(), {"loss": torch.stack((loss.detach(), tokens)).double()}


def train(where: Rendezvous, case: Case, steps: int = 6) -> list[tuple[float, float]]:
    """What one process of a training test runs: losses and gradient norms of all steps."""
    initialize(case.tp, case.pp, case.cp, case.vpp, where=where)
    return Trainer(case).train(0, steps)


def train_and_save(where: Rendezvous, case: Case, folder: str, at: int, more: int) -> list[tuple[float, float]]:
    """Trains to a step, saves in both formats, trains on; answers all steps."""
    initialize(case.tp, case.pp, case.cp, case.vpp, where=where)
    trainer = Trainer(case)
    before = trainer.train(0, at)
    for sharding in checkpoint.SHARDINGS:
        checkpoint.save(f"{folder}/{sharding}", trainer.models, trainer.optimizer, {"step": at}, sharding)
    return before + trainer.train(at, at + more)


def train_while_saving(where: Rendezvous, case: Case, folder: str, at: int, more: int) -> list[tuple[float, float]]:
    """Trains to a step, begins to save, trains on, and only then ends the save; answers all steps."""
    initialize(case.tp, case.pp, case.cp, case.vpp, where=where)
    trainer = Trainer(case)
    before = trainer.train(0, at)
    saving = checkpoint.begin_save(folder, trainer.models, trainer.optimizer, {"step": at})
    after = trainer.train(at, at + more)
    assert not checkpoint.is_whole(folder)
    saving.finish()
    return before + after


def load_and_train(where: Rendezvous, case: Case, folder: str, more: int) -> list[tuple[float, float]]:
    """Loads what other processes saved, and trains on."""
    initialize(case.tp, case.pp, case.cp, case.vpp, seed=99, where=where)
    trainer = Trainer(case)
    first = checkpoint.load(folder, trainer.models, trainer.optimizer)["step"]
    return trainer.train(first, first + more)
