"""The real sizes under the layouts of `configs/experiment/`, built with the trainer's own classes on the meta device.

Not covered: activations, and whether a device holds all of it; that is the planner's to say.
"""

import pytest
from processes import run

from hpt_megatron.config.load import load
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.mcore.model.blueprint import StageSize, blueprint

pytestmark = pytest.mark.slow

PUBLISHED = {
    "hpt-3b": 3_754_622_976,
    "hpt-7b": 8_292_166_656,
    "hpt-32b": 33_452_718_336,
    "hpt-72b": 73_410_777_344,
}


def build(where: Rendezvous, given: list[str]) -> list[StageSize]:
    """In a process of its own, because fake process groups are the process's only ones."""
    return blueprint(load(given).run)


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_a_real_size_builds_and_has_the_published_number_of_parameters(experiment: str) -> None:
    """Summed over stages and tensor-parallel ranks, without padding and copies; and what each rank holds, printed."""
    config = load([f"experiment={experiment}"]).run
    stages = run(1, build, [f"experiment={experiment}"])[0]
    assert sum(stage.whole for stage in stages) == PUBLISHED[experiment]
    assert sum(stage.layers for stage in stages) == config.model.num_hidden_layers
    for stage in stages:
        print(f"{experiment} stage {stage.pp_rank}: {stage.parameters:,} parameters, {stage.bytes / 2**30:.1f} GiB a rank")
        assert stage.weight_bytes == 2 * stage.parameters
    tower = 0 if config.layout.pp == 1 else stages[0].parameters - stages[1].parameters
    assert config.layout.pp == 1 or tower > 600_000_000, "the first stage holds the whole tower beside its layers"


def test_layers_that_do_not_divide_make_stages_that_differ_by_one() -> None:
    """The 7B on three stages of two virtual ones: 28 layers."""
    given = ["experiment=hpt-7b", "layout.tp=2", "layout.pp=3", "layout.vpp=2", "trainer.n_gpus_per_node=6"]
    stages = run(1, build, given)[0]
    assert sum(stage.layers for stage in stages) == 28
    assert {stage.layers for stage in stages} == {9, 10}
    assert sum(stage.whole for stage in stages) == PUBLISHED["hpt-7b"]
