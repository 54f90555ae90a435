"""Plans between every legal layout of small models: executed on numpy, and held against a naive engine.

Not covered: that vLLM's own loaders put the rows where the naive engine does.
"""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import engine, legal, numbered, plan_of, served_by, serves, small, trainer

from hpt_megatron.weights.plan.transfer import DEVICE, NETWORK, NODE
from hpt_megatron.weights.simulate import empty, execute, gather, hold

# heads, KV heads: one and several queries per key, fewer and more KV heads than ranks, the 28 and 4 of a 7B, 7 ranks.
HEADS = [(8, 8), (8, 2), (8, 1), (28, 4), (28, 28), (28, 7)]
STAGES = [(1, 1), (2, 1), (3, 1), (2, 2), (4, 1)]  # pp, vpp; 5 layers, so most are uneven


def poisoned(layout, tensors):
    """What a layout holds, with padding that must not be read."""
    held, ones = hold(layout, tensors), hold(layout, {name: np.ones_like(each) for name, each in tensors.items()})
    for rank, parameters in enumerate(held):
        for name, values in parameters.items():
            values[ones[rank][name] == 0] = np.nan
    return held


def elements(share, parameter):
    across = int(np.prod(parameter.shape)) // parameter.shape[parameter.axis]
    return sum(part.rows for part in share.parts) * across


def check(plan, model):
    """Written once, read inside, no more than needed, and equal to what the engine would have loaded."""
    tensors = numbered(model)
    source, target = poisoned(plan.source, tensors), empty(plan.target)
    writes, received = empty(plan.target, np.int8), Counter()
    for bucket in plan.buckets:
        for sender, receiver, piece in bucket.transfers:
            inside = source[sender][piece.source_parameter].shape
            assert all(0 <= low < high <= size for (low, high), size in zip(piece.source_box, inside, strict=True))
            writes[receiver][piece.target_parameter][tuple(slice(*each) for each in piece.target_box)] += 1
            cut = tuple(slice(*each) for each in piece.tensor_box)
            read = source[sender][piece.source_parameter][tuple(slice(*each) for each in piece.source_box)]
            assert np.array_equal(tensors[piece.tensor][cut], read)
            assert piece.elements == read.size
            received[receiver] += piece.elements
    execute(plan, source, target)
    for rank, parameters in enumerate(target):
        for name, values in parameters.items():
            assert np.array_equal(writes[rank][name], values != 0), (rank, name)
            assert not np.isnan(values).any(), (rank, name)
    needed = Counter()
    for parameter in plan.target.parameters:
        for share in parameter.shares:
            for rank in share.ranks:
                needed[rank] += elements(share, parameter)
    assert received == needed
    return target


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("heads", HEADS, ids=lambda each: f"{each[0]}-{each[1]}")
def test_every_layout_leads_to_every_engine(heads, tied):
    """Every tp up to 8, pp and vpp with uneven stages, and every engine's tp up to 8."""
    model = small(*heads, layers=5, vocab=443, tied=tied)  # 448 rows with padding, which 7 divides
    sizes = served_by(model)
    assert sizes == legal(*heads)
    for tp, (pp, vpp), ranks in product(legal(*heads), STAGES, sizes):
        source = trainer(model, tp=tp, pp=pp, vpp=vpp)
        held = check(plan_of(source, engine(model, ranks)), model)
        for rank, parameters in enumerate(held):
            expected = serves(model, numbered(model), ranks, rank)
            assert parameters.keys() == expected.keys()
            assert all(np.array_equal(parameters[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("heads", HEADS, ids=lambda each: f"{each[0]}-{each[1]}")
def test_a_plan_there_and_one_back_are_the_identity(heads, tied):
    """Also on ranks that the way there did not read: copies, and both ends of a tied matrix."""
    model = small(*heads, layers=3, vocab=443, tied=tied)
    tensors = numbered(model)
    for tp, (pp, dp), ranks in product(legal(*heads), [(1, 2), (2, 1)], served_by(model)):
        here, there = trainer(model, tp=tp, pp=pp, dp=dp, vocab_multiple=3), engine(model, ranks, engines=2)
        before = hold(here, tensors)
        after = execute(plan_of(there, here), execute(plan_of(here, there), before))
        assert [list(each) for each in after] == [list(each) for each in before]
        for rank, parameters in enumerate(before):
            assert all(np.array_equal(after[rank][name], values) for name, values in parameters.items())
        back = gather(here, after)
        assert back.keys() == tensors.keys()
        assert all(np.array_equal(back[name], each) for name, each in tensors.items())


SIZES = st.tuples(st.sampled_from([1, 2, 4, 8]), st.sampled_from(STAGES), st.integers(1, 2), st.integers(1, 2))


@settings(max_examples=40)
@given(SIZES, SIZES, st.booleans(), st.integers(1, 130), st.integers(1, 5))
def test_any_trainer_leads_to_any_other_and_back(one, other, tied, vocab, multiple):
    model = small(8, 2, layers=4, vocab=vocab, tied=tied, vision=False)
    layouts = [
        trainer(model, tp=tp, pp=pp, vpp=vpp, cp=cp, dp=dp, vocab_multiple=multiple)
        for tp, (pp, vpp), cp, dp in (one, other)
    ]
    there = plan_of(*layouts)
    held = check(there, model)
    back = check(plan_of(*reversed(layouts)), model)
    assert all(np.array_equal(back[0][name], each) for name, each in hold(layouts[0], numbered(model))[0].items())
    assert set(gather(layouts[1], held)) == set(numbered(model))


@settings(max_examples=40)
@given(
    SIZES, st.sampled_from([1, 2, 4, 8]), st.integers(1, 3), st.integers(1, 16), st.sampled_from([0, 64]), st.booleans()
)
def test_the_nearest_copy_sends(sizes, ranks, engines, per_node, apart, tied):
    """Found out by asking every rank of the source whether it holds the rows."""
    tp, (pp, vpp), cp, dp = sizes
    model = small(8, 2, layers=4, vocab=100, tied=True)
    source = trainer(model, tp=tp, pp=pp, vpp=vpp, cp=cp, dp=dp)
    plan = plan_of(source, engine(model, ranks, engines), per_node=per_node, apart=apart)
    holders = {}
    for parameter in source.parameters:
        for share in parameter.shares:
            for part in share.parts:
                holders.setdefault(part.tensor, []).append((part, share.ranks))
    for bucket in plan.buckets:
        for sender, receiver, piece in bucket.transfers:
            device = receiver + apart
            able = {
                rank
                for part, inside in holders[piece.tensor]
                if part.start <= piece.start and piece.stop <= part.stop
                for rank in inside
            }
            assert sender in able
            near = {rank for rank in able if rank // per_node == device // per_node}
            far = NETWORK if not near else NODE if device not in able else DEVICE
            assert plan.placement.distance(sender, receiver) == far


@pytest.mark.fast
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_copies_share_the_work(tied):
    """Engines on other nodes: every data-parallel copy sends as much, and a tied matrix goes out once per engine."""
    model = small(8, 2, layers=4, tied=tied, vision=False)
    source, target = trainer(model, tp=2, pp=2, dp=4), engine(model, 2, engines=8)
    plan = plan_of(source, target, apart=16)
    sent, received = Counter(), Counter()
    for bucket in plan.buckets:
        for sender, receiver, piece in bucket.transfers:
            sent[sender] += piece.elements
            received[receiver, piece.tensor] += piece.elements
    for stage in (0, 1):
        ranks = range(8 * stage, 8 * stage + 8)
        largest = max(piece.elements for bucket in plan.buckets for _, _, piece in bucket.transfers)
        assert max(sent[rank] for rank in ranks) - min(sent[rank] for rank in ranks) <= largest
    rows = {received[rank, "model.embed_tokens.weight"] for rank in range(16)}
    assert rows == {64 * 4, 36 * 4}  # 100 rows over two ranks of 64


@pytest.mark.fast
def test_an_engine_on_the_trainer_s_devices_takes_what_lies_there():
    """With equal layouts nothing leaves a device but KV heads that lie elsewhere, of which there are none here."""
    model = small(8, 8, layers=2, vocab=128, vision=False)
    plan = plan_of(trainer(model, tp=4), engine(model, 4))
    assert {(source, target) for bucket in plan.buckets for source, target, _ in bucket.transfers} == {
        (rank, rank) for rank in range(4)
    }
