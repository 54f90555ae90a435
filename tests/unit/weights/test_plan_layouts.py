"""The two layouts of a plan: the trainer's against how tensors are cut for it, the engine's against its own rules.

Not covered: the sizes of padded parameters inside a running vLLM.
"""

import doctest
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from plan_cases import engine, layout, legal, numbered, small, tiny, trainer

from hpt_megatron.config.load import load
from hpt_megatron.config.shapes import shapes
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.weights import simulate
from hpt_megatron.weights.entry import cut
from hpt_megatron.weights.plan import held, transfer
from hpt_megatron.weights.plan import trainer as trainer_module
from hpt_megatron.weights.plan.engine import engine_layout
from hpt_megatron.weights.plan.trainer import stage_of_layers, trainer_layout
from hpt_megatron.weights.plan.transfer import Copies, Placement
from hpt_megatron.weights.simulate import gather, hold
from hpt_megatron.weights.table import Table

REAL = ["qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen2.5-vl-32b", "qwen2.5-vl-72b", "llama-3.1-70b", "qwen2.5-0.5b", "tiny"]


@pytest.mark.parametrize("module", [held, trainer_module, transfer], ids=lambda each: each.__name__.split(".")[-1])
def test_the_examples_of_plans_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("heads", [(8, 8), (8, 2), (8, 1), (28, 4)], ids=lambda each: f"{each[0]}-{each[1]}")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_rank_of_the_trainer_holds_what_is_cut_for_it(heads, tied):
    """Bit for bit what `entry.cut` makes of the same tensors, padding included."""
    model = small(*heads, layers=3, vocab=101, tied=tied)
    tensors = {name: torch.from_numpy(each) for name, each in numbered(model).items()}
    for tp, pp in product(legal(*heads), (1, 2)):
        table = Table.of(model, tp, 3)
        for rank, parameters in enumerate(hold(trainer(model, tp=tp, pp=pp, vocab_multiple=3), numbered(model))):
            for name, values in parameters.items():
                entry = table.entry(name)
                expected = cut(entry.kind, [tensors[each] for each in entry.checkpoint], rank % tp, tp, table.fusion)
                assert np.array_equal(values, expected.numpy()), (tp, rank, name)


def test_the_first_and_the_last_stage_hold_what_is_theirs():
    model = small(8, 2, layers=5, tied=True)
    for pp, vpp in ((1, 1), (2, 1), (3, 1), (2, 2)):
        where = {each.name: each.lane for each in trainer(model, tp=2, pp=pp, vpp=vpp).parameters}
        assert where["embedding.word_embeddings.weight"] == 0
        assert {lane for name, lane in where.items() if name.startswith("visual.")} == {0}
        assert where["decoder.final_layernorm.weight"] == pp - 1
        assert where.get("output_layer.weight", pp - 1) == pp - 1
        assert ("output_layer.weight" in where) == (pp > 1), "a tied matrix has a copy where the pipeline has two ends"
        for layer, lane in enumerate(stage_of_layers(5, pp, vpp)):
            assert where[f"decoder.layers.{layer}.mlp.linear_fc2.weight"] == lane


@pytest.mark.parametrize("name", REAL)
def test_every_tensor_is_whole_in_the_layouts_of_real_models(name):
    """Each tensor's parts, without copies, make up the tensor."""
    model = load([f"model={name}"]).run.model
    sizes = shapes(model)
    for found in (trainer_layout(model, layout(tp=2, pp=2, vocab_multiple=128), 2), engine_layout(model, 2, 2)):
        rows: dict = {}
        for parameter in found.parameters:
            assert all(sizes[each] == parameter.shape or parameter.axis == 0 for each in parameter.tensors())
            for share in parameter.shares:
                assert sum(part.rows for part in share.parts) <= share.length
                assert len(set(share.ranks)) == len(share.ranks)
                for part in share.parts:
                    rows.setdefault((part.tensor, parameter.axis), set()).add((part.start, part.stop))
        assert {each for each, _ in rows} == set(sizes)
        for (each, axis), parts in rows.items():
            edges = [edge for part in sorted(parts) for edge in part]
            assert edges[0] == 0
            assert edges[-1] == sizes[each][axis]
            assert edges[1:-1:2] == edges[2::2], "a gap, or rows in two parts"


@pytest.mark.parametrize(
    ("heads", "tp", "told"),
    [
        ((28, 4), 7, "tensor_parallel_size=7: and the 4 KV heads do not divide one another"),
        ((28, 4), 8, r"tensor_parallel_size=8: does not divide the attention heads \(28\)"),
        ((6, 6), 3, r"tensor_parallel_size=3: does not divide the padded rows \(128\)"),
        ((8, 8), 0, "1 engines of 0 ranks are no engines"),
    ],
)
def test_an_engine_that_vllm_would_refuse_is_refused(heads, tp, told):
    with pytest.raises(UserError, match=told) as error:
        engine_layout(small(*heads), tp)
    assert "\n" not in str(error.value)


def test_a_vision_tower_is_cut_or_refused_where_there_is_one_to_cut():
    with pytest.raises(UserError, match="would cut the vision tower's 2 heads into 4 parts"):
        engine_layout(small(8, 8), 4, mm_encoder_tp_mode="weights")
    odd = replace(small(8, 8), vision=replace(small(8, 8).vision, intermediate_size=7))
    with pytest.raises(UserError, match="would cut the vision tower's 7 FFN size into 2 parts"):
        engine_layout(odd, 2, mm_encoder_tp_mode="weights")
    whole, cut_up = (engine_layout(small(8, 8), 2, mm_encoder_tp_mode=mode) for mode in ("data", "weights"))
    tensors = numbered(small(8, 8))
    assert gather(cut_up, hold(cut_up, tensors)).keys() == gather(whole, hold(whole, tensors)).keys()
    for name, values in gather(cut_up, hold(cut_up, tensors)).items():
        assert np.array_equal(values, tensors[name])
    (qkv,) = (each for each in cut_up.parameters if each.name == "visual.blocks.0.attn.qkv.weight")
    assert [part[1:] for part in qkv.shares[1].parts] == [(2, 4, 0), (6, 8, 2), (10, 12, 4)], "the second of two heads"
    assert engine_layout(small(8, 2, vision=False), 2, mm_encoder_tp_mode="weights") == engine(
        small(8, 2, vision=False), 2
    )
    assert engine_layout(tiny(), 1, mm_encoder_tp_mode="weights") == engine(tiny())


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"tp": 8}, r"layout.tp=8: does not divide the attention heads \(28\)"),
        ({"tp": 7}, "layout.tp=7: and the 4 KV heads do not divide one another"),
        ({"vpp": 2}, "layout.vpp=2: virtual stages need a pipeline"),
        ({"pp": 4}, "3 layers leave a stage of pp 4"),
    ],
)
def test_a_trainer_that_cannot_be_is_refused(sizes, told):
    with pytest.raises(UserError, match=told):
        trainer_layout(small(28, 4), layout(**sizes), 1)


def test_what_no_rank_holds_and_what_copies_disagree_on_are_errors():
    model, other = small(8, 2, layers=2), small(8, 2, layers=3)
    copies = Copies(trainer(model), Placement(8))
    lost = next(each for each in engine(other).parameters if ".layers.2." in each.name)
    with pytest.raises(HptError, match=r"model.layers.2.*: rows 0 to 4 are on no rank of the source"):
        copies.transfers(lost)
    held_now = hold(trainer(model, dp=2), numbered(model))
    held_now[1]["decoder.final_layernorm.weight"] = held_now[1]["decoder.final_layernorm.weight"] + 1
    with pytest.raises(HptError, match=r"rank 1 has another copy of model.norm.weight"):
        gather(trainer(model, dp=2), held_now)
    assert simulate.empty(trainer(model))[0]["decoder.final_layernorm.weight"].sum() == 0
