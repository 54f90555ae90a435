"""How tensors of a checkpoint are fused and cut, and that joining gives them back bit for bit."""

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.errors import UserError
from hpt_megatron.weights import entry
from hpt_megatron.weights.entry import Fusion, cut, join

RANKS = st.integers(1, 8)


def numbered(*shape, start=0):
    """A tensor in which every number stands once."""
    count = torch.Size(shape).numel()
    return torch.arange(start, start + count, dtype=torch.float32).reshape(shape)


def test_the_example_of_the_entry_holds():
    result = doctest.testmod(entry)
    assert (result.failed, result.attempted) == (0, 4)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["replicated", "rows", "columns", "gated"]), RANKS, st.integers(1, 3), st.integers(1, 3), st.data()
)
def test_joining_what_was_cut_gives_the_same_tensors(kind, ranks, rows, columns, data):
    """Matrices, and vectors where there is a first axis alone to cut."""
    shape = [rows * ranks] if kind != "columns" and data.draw(st.booleans()) else [rows * ranks, columns * ranks]
    tensors = [numbered(*shape, start=1000 * part) for part in range(2 if kind == "gated" else 1)]
    shards = [cut(kind, tensors, rank, ranks) for rank in range(ranks)]
    back = join(kind, shards)
    assert len(back) == len(tensors)
    assert all(map(torch.equal, back, tensors))
    if kind != "replicated":
        assert {shard.numel() * ranks for shard in shards} == {sum(tensor.numel() for tensor in tensors)}


@settings(deadline=None, max_examples=60)
@given(RANKS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_queries_keys_and_values_come_back_for_any_number_of_ranks(ranks, groups, heads, each, bias):
    """More ranks than groups too, where a cut goes through a group, or through a head."""
    head_dim = each * ranks  # so that the rows divide
    rest = () if bias else (3,)
    fusion = Fusion(groups, head_dim)
    query = numbered(groups * heads * head_dim, *rest)
    key, value = (numbered(groups * head_dim, *rest, start=10_000 * part) for part in (1, 2))
    shards = [cut("qkv", [query, key, value], rank, ranks, fusion) for rank in range(ranks)]
    assert {len(shard) for shard in shards} == {groups * (heads + 2) * head_dim // ranks}
    assert all(map(torch.equal, join("qkv", shards, fusion), [query, key, value]))


@settings(deadline=None, max_examples=60)
@given(RANKS, st.integers(1, 50), st.integers(1, 9))
def test_a_padded_vocabulary_is_zeros_at_its_end_and_loses_them_again(ranks, rows, multiple):
    padded = -(-rows // (multiple * ranks)) * multiple * ranks
    fusion = Fusion(vocabulary=rows, padded_vocabulary=padded)
    table = numbered(rows, 2, start=1)
    shards = [cut("vocabulary", [table], rank, ranks, fusion) for rank in range(ranks)]
    assert {len(shard) for shard in shards} == {padded // ranks}
    assert not torch.cat(shards)[rows:].any()
    (back,) = join("vocabulary", shards, fusion)
    assert torch.equal(back, table)


@pytest.mark.parametrize("rows", [9, 11, 16])
def test_a_vocabulary_of_another_size_is_refused_not_padded(rows):
    with pytest.raises(UserError, match=f"vocabulary has {rows} rows where the model has 10"):
        cut("vocabulary", [numbered(rows, 2)], 0, 2, Fusion(vocabulary=10, padded_vocabulary=16))


def test_the_fused_rows_are_each_group_s_queries_then_its_key_then_its_value():
    """Two groups, two query heads each, two channels: the order that megatron-core's attention splits by."""
    query, key, value = numbered(8, 1), numbered(4, 1, start=100), numbered(4, 1, start=200)
    fused = cut("qkv", [query, key, value], 0, 1, Fusion(2, 2)).flatten().tolist()
    assert fused == [0, 1, 2, 3, 100, 101, 200, 201, 4, 5, 6, 7, 102, 103, 202, 203]
    second = cut("qkv", [query, key, value], 1, 2, Fusion(2, 2)).flatten().tolist()
    assert second == [4, 5, 6, 7, 102, 103, 202, 203]


def test_gate_stands_over_up_on_every_rank():
    gate, up = numbered(4, 1), numbered(4, 1, start=10)
    assert [cut("gated", [gate, up], rank, 2).flatten().tolist() for rank in (0, 1)] == [[0, 1, 10, 11], [2, 3, 12, 13]]


def test_columns_are_cut_along_the_second_axis():
    assert cut("columns", [numbered(2, 4)], 1, 2).tolist() == [[2, 3], [6, 7]]
