"""Bytes, buffers and seconds of a plan.

Not covered: how long a publish takes; these are the seconds that a link cannot go below.
"""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import engine, plan_of, small, trainer

from hpt_megatron.config.geometry import parameters
from hpt_megatron.weights.plan.cost import LINKS, cost

pytestmark = pytest.mark.fast

MODEL = small(8, 2, layers=4, vocab=100)
BYTES = 4 * parameters(MODEL)


@settings(max_examples=15)
@given(
    st.sampled_from([1, 2, 4]),
    st.sampled_from([(1, 1), (2, 1), (2, 2)]),
    st.integers(1, 3),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([(0, 8), (0, 2), (24, 4)]),
    st.sampled_from([2000, 20_000, 1 << 30]),
)
def test_what_is_sent_is_received_and_adds_up(tp, stages, dp, ranks, where, bound):
    apart, per_node = where
    source = trainer(MODEL, tp=tp, pp=stages[0], vpp=stages[1], dp=dp)
    plan = plan_of(source, engine(MODEL, ranks, 2), apart=apart, per_node=per_node, bucket=bound)
    counted = cost(plan)
    sizes = [t.piece.elements * 4 for bucket in plan.buckets for t in bucket.transfers]
    assert sum(counted.links.values()) == sum(sizes) == counted.total
    here = sum(size for (one, other), size in counted.links.items() if one == other + apart)
    assert counted.by_distance[0] == here
    sent, received = map(counted.sent, range(source.ranks)), map(counted.received, range(2 * ranks))
    assert sum(sent) == sum(received) == counted.total - here
    across = [size for (one, to), size in counted.links.items() if one // per_node != (to + apart) // per_node]
    assert counted.by_distance[2] == sum(across)
    for rates in ((450.0, 50.0), (55.0, 55.0)):
        at_once, in_turn = counted.seconds(*rates)
        assert at_once <= in_turn * (1 + 1e-12)
    largest = max(bucket.bytes for bucket in plan.buckets)
    assert all(size <= 2 * largest * (1 + len(counted.links)) for size in counted.buffers)


def test_one_copy_to_two_engines_is_packed_once_and_sent_twice():
    """Device 0 trains, devices 1 and 2 serve; everything is one bucket."""
    counted = cost(plan_of(trainer(MODEL), engine(MODEL, 1, 2), apart=1))
    assert counted.total == 2 * BYTES
    assert (counted.sent(0), counted.received(0), counted.received(1)) == (2 * BYTES, BYTES, BYTES)
    assert counted.buffers == (BYTES, BYTES, BYTES)
    assert counted.seconds(1.0, 1.0) == (2 * BYTES / 1e9, 2 * BYTES / 1e9)


def test_two_buckets_are_held_at_a_time_and_an_oversize_one_alone():
    source, target = trainer(MODEL), engine(MODEL)
    whole = plan_of(source, target, apart=1)
    large = max(bucket.bytes for bucket in plan_of(source, target, bucket=1).buckets)
    plan = plan_of(source, target, apart=1, bucket=large)
    assert not any(bucket.oversize for bucket in plan.buckets)
    pairs = [one.bytes + two.bytes for one, two in pairwise(plan.buckets)]
    assert cost(plan).buffers == (max(pairs), max(pairs))
    assert cost(plan_of(source, target, apart=1, bucket=1)).buffers == (large, large)
    assert cost(whole).buffers == (BYTES, BYTES)


def test_a_device_that_trains_and_serves_holds_what_it_packs():
    counted = cost(plan_of(trainer(MODEL), engine(MODEL)))
    assert (counted.total, counted.by_distance, counted.buffers) == (BYTES, (BYTES, 0, 0), (BYTES,))
    assert counted.seconds(450.0, 50.0) == (0.0, 0.0)


def test_the_named_links_have_their_rates():
    assert LINKS == {"NVLink4": 450.0, "InfiniBand 400 Gb/s": 50.0, "PCIe 5 x16": 55.0}
