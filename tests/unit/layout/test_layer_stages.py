"""Layers onto pipeline stages, also uneven ones.

Not covered: that megatron-core builds what the list says; that needs torch.
"""

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.errors import UserError
from hpt_megatron.layout import stages
from hpt_megatron.layout.stages import first_layer, layers_per_stage, pipeline_layout

pytestmark = pytest.mark.fast

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 5)).flatmap(
    lambda sizes: st.tuples(st.integers(sizes[0] * sizes[1], 130), st.just(sizes[0]), st.just(sizes[1]))
)


def in_order(layers: int, pp: int, vpp: int) -> list[int]:
    table = layers_per_stage(layers, pp, vpp)
    return [table[rank][virtual] for virtual in range(vpp) for rank in range(pp)]


def test_the_example_of_the_stages_holds():
    result = doctest.testmod(stages)
    assert (result.failed, result.attempted) == (0, 3)


@given(SHAPES)
@settings(deadline=None)
def test_every_layer_has_one_stage_and_stages_and_ranks_differ_by_at_most_one(shape):
    layers, pp, vpp = shape
    table = layers_per_stage(*shape)
    counts = in_order(*shape)
    assert [len(row) for row in table] == [vpp] * pp
    assert sum(counts) == layers
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 1
    totals = [sum(row) for row in table]
    assert max(totals) - min(totals) <= 1


@given(SHAPES)
@settings(deadline=None)
def test_the_first_stage_is_the_last_to_get_a_layer_more_and_the_last_stage_the_last_but_one(shape):
    layers, pp, vpp = shape
    counts = in_order(*shape)
    more = [stage for stage, count in enumerate(counts) if count > layers // (pp * vpp)]
    assert 0 not in more
    if len(counts) - 1 in more:
        assert more == list(range(1, len(counts)))


@given(SHAPES)
@settings(deadline=None)
def test_the_first_layers_follow_one_another_in_the_order_of_a_token(shape):
    layers, pp, _ = shape
    at = 0
    for stage, count in enumerate(in_order(*shape)):
        assert first_layer(*shape, rank=stage % pp, virtual=stage // pp) == at
        at += count
    assert at == layers


@given(SHAPES)
@settings(deadline=None)
def test_the_pipeline_list_names_each_layer_once_between_embedding_and_loss(shape):
    rows = pipeline_layout(*shape)
    assert [row.count("decoder") for row in rows] == in_order(*shape)
    flat = [name for row in rows for name in row]
    assert flat == ["embedding", *["decoder"] * shape[0], "loss"]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((28, 1, 1), [[28]]),
        ((28, 4, 1), [[7], [7], [7], [7]]),
        ((29, 4, 1), [[7], [7], [8], [7]]),
        ((30, 4, 1), [[7], [8], [8], [7]]),
        ((31, 4, 1), [[7], [8], [8], [8]]),
        ((29, 2, 1), [[14], [15]]),
        ((5, 2, 2), [[1, 2], [1, 1]]),
    ],
)
def test_what_is_left_over_goes_to_the_middle_then_to_the_last(shape, expected):
    assert layers_per_stage(*shape) == expected


@pytest.mark.parametrize(("shape", "words"), [((3, 2, 2), "3 layers leave"), ((4, 0, 1), "pp 0"), ((4, 1, 0), "vpp 0")])
def test_a_pipeline_with_an_empty_stage_is_refused(shape, words):
    with pytest.raises(UserError, match=words) as caught:
        layers_per_stage(*shape)
    assert caught.value.mend


@pytest.mark.parametrize(("rank", "virtual"), [(2, 0), (-1, 0), (0, 2), (0, -1)])
def test_a_stage_that_is_not_there_has_no_first_layer(rank, virtual):
    with pytest.raises(UserError, match="there is no virtual stage"):
        first_layer(8, 2, 2, rank=rank, virtual=virtual)
