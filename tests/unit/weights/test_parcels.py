"""A plan in bytes: packed and taken out again it is the plan, and the bytes are those that the plan counts."""

from collections import Counter

import numpy as np
import pytest
from plan_cases import engine, legal, numbered, plan_of, served_by, small, trainer

from hpt_megatron.weights.plan.cost import cost
from hpt_megatron.weights.plan.engine import engine_layout
from hpt_megatron.weights.plan.parcels import fingerprint, from_plain, parcels, plain, received_by, rounds, sent_by
from hpt_megatron.weights.simulate import execute, gather, hold

CASES = [
    (heads, kv, sizes, tp, bucket)
    for heads, kv in ((4, 2), (28, 4))
    for sizes in ({}, {"tp": 2, "pp": 2}, {"tp": 4}, {"pp": 3}, {"tp": 2, "pp": 3})
    for tp in served_by(small(heads, kv))
    if sizes.get("tp", 1) in legal(heads, kv)
    for bucket in (300, 1 << 30)
]


def through_bytes(plan, tensors):
    """Packs, takes and writes by parcels and crates alone; also what went over each link."""
    held = hold(plan.source, tensors)
    target, links = [{} for _ in range(plan.target.ranks)], Counter()
    for parameter in plan.target.parameters:
        for share in parameter.shares:
            for rank in share.ranks:
                shape = [share.length if axis == parameter.axis else size for axis, size in enumerate(parameter.shape)]
                target[rank][parameter.name] = np.zeros(shape, np.float32)
    packed = parcels(plan)
    memory = {}
    for sender in range(plan.source.ranks):
        for parcel in sent_by(packed, sender):
            buffer = np.zeros(parcel.size, np.uint8)
            for row in parcel.rows:
                box = tuple(slice(start, stop) for start, stop in row.piece.source_box)
                values = np.ascontiguousarray(held[sender][row.piece.source_parameter][box])
                buffer[row.at : row.at + values.nbytes] = values.view(np.uint8).reshape(-1)
            memory[parcel.bucket, sender] = buffer
    for receiver in range(plan.target.ranks):
        for crate in from_plain(plain(received_by(plan, packed, receiver))):
            for taken in crate.taken:
                links[taken.sender, receiver] += sum(size for _, size in taken.runs)
                for landing in taken.landings:
                    count = int(np.prod(landing.shape)) * 4
                    assert any(at <= landing.at and landing.at + count <= at + size for at, size in taken.runs)
                    values = memory[crate.bucket, taken.sender][landing.at : landing.at + count].view(np.float32)
                    where = [slice(None)] * len(landing.shape)
                    where[landing.axis] = slice(landing.start, landing.start + landing.shape[landing.axis])
                    target[receiver][landing.parameter][tuple(where)] = values.reshape(landing.shape)
    return target, links


@pytest.mark.parametrize(("heads", "kv", "sizes", "tp", "bucket"), CASES)
def test_parcels_carry_the_plan_and_its_bytes(heads, kv, sizes, tp, bucket):
    model = small(heads, kv)
    plan = plan_of(trainer(model, **sizes), engine(model, tp, engines=2), bucket=bucket)
    tensors = numbered(model)
    found, links = through_bytes(plan, tensors)
    wanted = execute(plan, hold(plan.source, tensors))
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    assert links == cost(plan).links


@pytest.mark.parametrize("sizes", [{}, {"tp": 2, "pp": 2}])
def test_a_tower_that_the_trainer_holds_whole_is_cut_for_the_engine(sizes):
    """Along rows and along columns, from the same parameter; each rank of the engine gets its part and no more."""
    model = small(4, 2)
    target = engine_layout(model, 2, 1, "weights")
    plan = plan_of(trainer(model, **sizes), target, bucket=1500)
    found, links = through_bytes(plan, numbered(model))
    for name, values in gather(target, found).items():
        assert np.array_equal(values, numbered(model)[name]), name
    assert links == cost(plan).links
    whole = cost(plan_of(trainer(model, **sizes), engine(model, 2))).total
    assert cost(plan).total < whole


def test_runs_fill_a_parcel_and_name_each_receiver_once():
    model = small(4, 2)
    plan = plan_of(trainer(model, tp=2, pp=2), engine(model, 2, engines=2))
    for parcel in (each for bucket in parcels(plan) for each in bucket):
        at = 0
        for run in parcel.runs:
            assert run.at == at
            assert run.size > 0
            assert list(run.receivers) == sorted(set(run.receivers))
            at += run.size
        assert at == parcel.size


def test_buckets_travel_in_rounds_of_the_stages():
    """Two stages send at the same time; each in the order of the model."""
    model = small(4, 2, layers=4)
    plan = plan_of(trainer(model, pp=2), engine(model), bucket=3000)
    order = [number for number, _ in rounds(plan)]
    assert sorted(order) == list(range(len(plan.buckets)))
    lanes = [plan.buckets[number].lane for number in order]
    assert lanes[:4] == [0, 1, 0, 1], "the second stage must not wait for the first to be through"
    for lane in (0, 1):
        own = [number for number in order if plan.buckets[number].lane == lane]
        assert own == sorted(own)


def test_fingerprints_tell_plans_apart():
    model = small(4, 2)
    plans = [
        plan_of(trainer(model, tp=tp), engine(model, rollout), bucket=bucket)
        for tp in (1, 2)
        for rollout in (1, 2)
        for bucket in (500, 1 << 30)
    ]
    marks = [fingerprint(plan) for plan in plans]
    assert len(set(marks)) == len(marks)
    assert marks[0] == fingerprint(plan_of(trainer(model, tp=1), engine(model, 1), bucket=500))
