"""What a rank of a stage holds, against the layouts that publishing is planned from. Not covered: megatron-core's own
classes, which tests/dist holds against the same layouts.
"""

from dataclasses import replace
from math import prod

import pytest

from hpt_megatron.config.geometry import parameters
from hpt_megatron.config.load import load
from hpt_megatron.planning.memory import telling
from hpt_megatron.planning.parameters import engine_elements, stages_of
from hpt_megatron.weights.plan.engine import engine_layout
from hpt_megatron.weights.plan.trainer import trainer_layout

pytestmark = pytest.mark.fast


def held_by(layout, rank):
    """Elements of one rank, padding included, from a layout of the publishing plan."""
    total = 0
    for parameter in layout.parameters:
        across = prod(size for axis, size in enumerate(parameter.shape) if axis != parameter.axis)
        total += sum(share.length * across for share in parameter.shares if rank in share.ranks)
    return total


@pytest.mark.parametrize("name", ["hpt-3b", "tiny-hpt"])
@pytest.mark.parametrize(("tp", "pp", "vpp"), [(1, 1, 1), (1, 2, 1), (2, 4, 1), (2, 2, 2), (4, 3, 1)])
def test_every_stage_holds_what_the_publishing_plan_gives_its_ranks(name, tp, pp, vpp):
    run = load([f"experiment={name}"]).run
    layout = replace(run.layout, tp=tp, pp=pp, vpp=vpp)
    whole = trainer_layout(run.model, layout, dp=1)
    stages = stages_of(run.model, layout)
    assert [stage.all.held for stage in stages] == [held_by(whole, stage.rank * tp) for stage in stages]
    assert [stage.all.held for stage in stages] == [held_by(whole, stage.rank * tp + tp - 1) for stage in stages]
    assert all(stage.all.trained == stage.all.held for stage in stages)
    assert sum(stage.layers for stage in stages) == run.model.num_hidden_layers


@pytest.mark.parametrize("name", ["hpt-3b", "hpt-7b", "hpt-32b", "hpt-72b", "tiny-hpt"])
def test_one_rank_alone_holds_the_model(name):
    run = load([f"experiment={name}", "layout=tp1", "layout.vocab_multiple=1"]).run
    (stage,) = stages_of(run.model, run.layout)
    assert stage.all.held == parameters(run.model)


def test_frozen_tensors_are_held_and_not_trained():
    run = load(["experiment=hpt-7b"]).run
    frozen = ("visual.*", "model.layers.[0-9].*", "lm_head.weight")
    (whole,), (part,) = stages_of(run.model, run.layout), stages_of(run.model, run.layout, frozen)
    assert part.all.held == whole.all.held
    assert part.vision.trained == 0
    assert part.decoder.trained * 28 == whole.decoder.held * 18
    assert part.output.trained == run.model.hidden_size, "the last norm"
    assert part.embedding.trained == whole.embedding.held


def test_a_critic_has_one_number_per_token_in_place_of_the_vocabulary():
    run = load(["experiment=hpt-7b"]).run
    (stage,) = stages_of(run.model, run.layout, vocabulary=False)
    assert stage.output.held == 2 * run.model.hidden_size + 1


@pytest.mark.parametrize(("name", "tp"), [("hpt-3b", 1), ("hpt-7b", 2), ("hpt-7b", 4), ("hpt-72b", 8)])
def test_an_engine_rank_holds_what_publishing_brings_it(name, tp):
    model = load([f"experiment={name}"]).run.model
    layout = engine_layout(model, tp)
    assert {held_by(layout, rank) for rank in range(tp)} == {engine_elements(model, tp, "data")}


def test_the_stages_that_are_looked_at_have_the_worst_among_them():
    """Uneven stages: 28 layers over 8, so that a middle one has a layer more than the first."""
    run = load(["experiment=hpt-7b"]).run
    stages = stages_of(run.model, replace(run.layout, pp=8))
    kept = telling(stages)
    assert {stage.rank for stage in kept} >= {0, 7}
    for stage in stages:
        assert any(other.all == stage.all and other.rank <= stage.rank for other in kept)
