"""Buckets: whole modules, in the order of the model, within the bound; nothing lost between them."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import GIB, engine, plan_of, small, trainer

from hpt_megatron.config.load import load
from hpt_megatron.config.shapes import shapes
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast


def received(bucket, element):
    by_rank: dict = {}
    for transfer in bucket.transfers:
        by_rank[transfer.target] = by_rank.get(transfer.target, 0) + transfer.piece.elements * element
    return max(by_rank.values())


@settings(max_examples=25)
@given(st.integers(1, 200_000), st.sampled_from([1, 2, 4]), st.sampled_from([(1, 1), (2, 1), (2, 2)]), st.booleans())
def test_a_bucket_holds_whole_modules_of_one_stage_within_its_bound(bound, ranks, stages, tied):
    model = small(8, 2, layers=4, tied=tied)
    pp, vpp = stages
    source, target = trainer(model, tp=2, pp=pp, vpp=vpp), engine(model, ranks)
    plan = plan_of(source, target, bucket=bound)
    assert [module for bucket in plan.buckets for module in bucket.modules] == [name for name, _ in target.modules()]
    lanes = {parameter.name: parameter.lane for parameter in source.parameters}
    for bucket in plan.buckets:
        assert {transfer.piece.target_parameter.rpartition(".")[0] for transfer in bucket.transfers} == set(
            bucket.modules
        )
        assert bucket.bytes == received(bucket, 4)
        assert bucket.oversize == (bucket.bytes > bound)
        assert not bucket.oversize or len(bucket.modules) == 1
        untied = [t.piece.source_parameter for t in bucket.transfers if "embed_tokens" not in t.piece.tensor]
        assert {lanes[name] for name in untied} <= {bucket.lane}
    for one, two in pairwise(plan.buckets):  # no bucket could have taken the next module as well
        following = next(iter(two.modules))
        more = [t for t in two.transfers if t.piece.target_parameter.rpartition(".")[0] == following]
        joined = received(type(one)(0, (), one.transfers + tuple(more), 0, False), 4)
        assert joined > bound or one.lane != two.lane


def test_the_transfers_do_not_depend_on_the_bound():
    model = small(8, 2, layers=4)
    plans = [plan_of(trainer(model, tp=2, pp=2), engine(model, 4), bucket=bound) for bound in (1, 3000, GIB)]
    assert len({tuple(t for bucket in plan.buckets for t in bucket.transfers) for plan in plans}) == 1


def test_the_embedding_of_a_72b_is_larger_than_a_bucket_of_a_gibibyte():
    model = load(["model=qwen2.5-vl-72b"]).run.model
    plan = plan_of(trainer(model, tp=8, pp=4, vocab_multiple=128), engine(model), element=2)
    large = {bucket.modules: bucket.bytes / GIB for bucket in plan.buckets if bucket.oversize}
    assert {name: round(size, 2) for name, size in large.items()} == {
        ("language_model.model.embed_tokens",): 2.32,
        ("language_model.lm_head",): 2.32,
    }


def test_a_module_stays_away_only_when_all_its_tensors_do():
    """A frozen weight whose bias is trained travels, for a module that is sent in part is left half loaded."""
    model = small(8, 2, layers=2)
    tower = {name for name in shapes(model) if name.startswith("visual.")}
    whole = [module for module, _ in engine(model).modules()]
    without = plan_of(trainer(model), engine(model), without=tower)
    assert [module for bucket in without.buckets for module in bucket.modules] == [
        module for module in whole if not module.startswith("visual.")
    ]
    part = {"model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight"}
    assert [
        m for bucket in plan_of(trainer(model), engine(model), without=part).buckets for m in bucket.modules
    ] == whole
    assert plan_of(trainer(model), engine(model), without=set(shapes(model))).buckets == ()


def test_a_bucket_of_nothing_is_refused():
    with pytest.raises(UserError, match="in buckets of 0 bytes"):
        plan_of(trainer(small(8, 2)), engine(small(8, 2)), bucket=0)
