"""The plan's picture of the trainer against the trainer: every rank's parameters, by name and shape.

Not covered: the values, which comparisons with transformers show.
"""

from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from processes import run
from torch.testing._internal.distributed.fake_pg import FakeStore

from hpt_megatron.config.load import load
from hpt_megatron.config.run import RunConfig
from hpt_megatron.mcore import patches
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.mcore.model.named import parameters_of
from hpt_megatron.mcore.model.stage import Model, stages_here
from hpt_megatron.mcore.model.transformer_config import decoder_config
from hpt_megatron.weights.plan.trainer import trainer_layout
from hpt_megatron.weights.simulate import shape_here
from hpt_megatron.weights.table import Table

pytestmark = pytest.mark.slow

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Case:
    """A run, and the ranks of it that are built."""

    given: tuple[str, ...]
    ranks: tuple[int, ...]


SMALL = ("layout.vocab_multiple=3", "trainer.nnodes=1")
CASES = [
    Case(("layout.tp=2", "layout.pp=2", "layout.vpp=2", "trainer.n_gpus_per_node=8", *SMALL), tuple(range(8))),
    Case(("layout.tp=4", "layout.pp=3", "trainer.n_gpus_per_node=12", *SMALL), tuple(range(12))),
    Case(("layout.cp=2", "layout.pp=2", "trainer.n_gpus_per_node=8", "layout.tp=1", *SMALL), tuple(range(8))),
    Case(("model.tie_word_embeddings=false", "layout.pp=2", "layout.tp=1", "trainer.n_gpus_per_node=2"), (0, 1)),
    Case(("experiment=hpt-3b",), (0, 7)),
    Case(("experiment=hpt-72b",), (0, 15, 16, 63)),
]


def build(where: Rendezvous, case: Case) -> list[Shapes]:
    """What the trainer's own classes make on each rank, on the meta device over a fake process group."""
    patches.apply()
    return [_rank(load(list(case.given)).run, rank) for rank in case.ranks]


def _rank(chosen: RunConfig, rank: int) -> Shapes:
    layout = chosen.layout
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=chosen.devices)
    try:
        parallel_state.initialize_model_parallel(
            layout.tp,
            layout.pp,
            layout.vpp if layout.vpp > 1 else None,
            context_parallel_size=layout.cp,
            create_gloo_process_groups=False,
        )
        config = decoder_config(chosen.model, layout, torch.bfloat16)
        config.use_cpu_initialization = True
        padded = Table.of(chosen.model, layout.tp, layout.vocab_multiple).fusion.padded_vocabulary
        with torch.device("meta"):
            models = [Model(config, chosen.model, padded, stage) for stage in stages_here(layout.pp, layout.vpp)]
        return {name: tuple(param.shape) for name, param in parameters_of(models)}
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.given[:3]))
def test_a_rank_of_the_plan_holds_what_the_trainer_builds_there(case: Case) -> None:
    chosen = load(list(case.given)).run
    planned: list[Shapes] = [{} for _ in range(chosen.devices)]
    layout = trainer_layout(chosen.model, chosen.layout, chosen.dp)
    assert layout.ranks == chosen.devices
    for parameter in layout.parameters:
        for share in parameter.shares:
            for rank in share.ranks:
                planned[rank][parameter.name] = shape_here(parameter, share)
    for rank, built in zip(case.ranks, run(1, build, case)[0], strict=True):
        assert planned[rank] == built, rank
