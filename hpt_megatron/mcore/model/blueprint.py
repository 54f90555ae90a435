"""Every stage of a layout without weights and without its processes: what each rank would hold.

The real classes are built on torch's meta device, one pipeline rank after the other, over torch's own fake process
group, which knows the layout and sends nothing. So a layout of a hundred GPUs is built on a laptop in seconds, and a
size that does not fit together fails there.

Example:
    for stage in blueprint(load(["experiment=hpt-72b"]).run):
        print(stage.pp_rank, stage.parameters, stage.bytes)
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore

from hpt_megatron.config.geometry import padded_vocab_size
from hpt_megatron.config.run import RunConfig
from hpt_megatron.mcore import patches
from hpt_megatron.mcore.model.named import parameters_of
from hpt_megatron.mcore.model.stage import Model, stages_here
from hpt_megatron.mcore.model.transformer_config import DTYPES, decoder_config
from hpt_megatron.weights.entry import Kind
from hpt_megatron.weights.table import OUTPUT, Table


@dataclass(frozen=True)
class StageSize:
    """What the first rank of a pipeline stage holds."""

    pp_rank: int
    layers: int
    parameters: int  # on this rank
    whole: int  # of the checkpoint's tensors that this stage has, over all tensor-parallel ranks, without padding
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int  # float32 copies (where weights are bf16) and two moments, cut over dp x cp

    @property
    def bytes(self) -> int:
        """All that does not depend on the rows."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes


def blueprint(run: RunConfig) -> list[StageSize]:
    """The stages of a run's layout; must be called where no process group is open."""
    patches.apply()
    ranks = run.layout.tp * run.layout.cp * run.dp
    return [_stage(run, pp_rank, first_rank=pp_rank * ranks) for pp_rank in range(run.layout.pp)]


def _stage(run: RunConfig, pp_rank: int, first_rank: int) -> StageSize:
    layout, model = run.layout, run.model
    world = layout.tp * layout.pp * layout.cp * run.dp
    dist.init_process_group("fake", store=FakeStore(), rank=first_rank, world_size=world)
    try:
        parallel_state.initialize_model_parallel(
            layout.tp,
            layout.pp,
            layout.vpp if layout.vpp > 1 else None,
            context_parallel_size=layout.cp,
            create_gloo_process_groups=False,
        )
        config = decoder_config(model, layout, DTYPES[run.trainer.dtype])
        config.use_cpu_initialization = True
        padded = padded_vocab_size(model.vocab_size, layout.vocab_multiple, layout.tp)
        with torch.device("meta"):
            models = [Model(config, model, padded, stage) for stage in stages_here(layout.pp, layout.vpp)]
        return _size(run, pp_rank, models, Table.of(model, layout.tp, layout.vocab_multiple))
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _size(run: RunConfig, pp_rank: int, models: list[Model], table: Table) -> StageSize:
    here, whole, weight_bytes = 0, 0, 0
    for name, param in parameters_of(models):
        here += param.numel()
        weight_bytes += param.numel() * param.element_size()
        if name != OUTPUT or not run.model.tie_word_embeddings:
            whole += _whole_size(table.kind(name), param, run)
    copies = 4 if run.trainer.dtype == "bf16" else 0
    return StageSize(
        pp_rank=pp_rank,
        layers=sum(len(model.decoder.layers) for model in models),
        parameters=here,
        whole=whole,
        weight_bytes=weight_bytes,
        gradient_bytes=4 * here,
        optimizer_bytes=(copies + 8) * here // (run.dp * run.layout.cp),
    )


def _whole_size(kind: Kind, param: torch.Tensor, run: RunConfig) -> int:
    if kind == "replicated":
        return param.numel()
    if kind == "vocabulary":
        return run.model.vocab_size * param.shape[1]
    return param.numel() * run.layout.tp
