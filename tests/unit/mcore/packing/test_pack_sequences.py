"""Padding, the zig-zag cut, and what attends to what: for any lengths and any layout.

Not covered: attention over these segments; that is in tests/unit/mcore/model and tests/dist.
"""

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.errors import UserError
from hpt_megatron.layout.sizes import divisors
from hpt_megatron.mcore.packing import sequences
from hpt_megatron.mcore.packing.sequences import (
    PackedSequences,
    PackShape,
    Place,
    local,
    positions,
    segments,
)

LENGTHS = st.lists(st.integers(1, 21), max_size=5)
TP, CP = st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([1, 2, 3, 4])


def test_the_examples_of_the_sequences_hold():
    result = doctest.testmod(sequences)
    assert (result.failed, result.attempted) == (0, 4)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, TP, CP, st.integers(0, 60))
def test_a_pack_divides_by_every_cut_and_holds_its_sequences_in_order(lengths, tp, cp, at_least):
    """The cut in 2 cp chunks of each sequence, and of the whole over cp and then tp."""
    shape = PackShape.of(lengths, tp, cp, at_least)
    each, whole = divisors(tp, cp)
    assert whole % (cp * tp) == 0
    assert each == (2 * cp if cp > 1 else 1)
    assert all(length % each == 0 for length in shape.padded)
    assert shape.total % whole == 0
    assert shape.real == tuple(lengths)
    for real, padded in zip(shape.real, shape.padded, strict=False):
        assert real <= padded < real + each
    assert shape.starts == [sum(shape.padded[:number]) for number in range(len(shape.padded))]


@settings(deadline=None, max_examples=60)
@given(LENGTHS, TP, CP, st.integers(0, 60))
def test_a_pack_is_no_longer_than_it_must_be_and_what_fills_it_stands_last(lengths, tp, cp, at_least):
    shape = PackShape.of(lengths, tp, cp, at_least)
    _, whole = divisors(tp, cp)
    needed = max(sum(shape.padded[: len(lengths)]), at_least, 1)
    assert needed <= shape.total < needed + whole
    assert len(shape.padded) == len(lengths) + bool(shape.tail)
    assert shape.tail == 0 or shape.padded[-1] == shape.tail == shape.total - sum(shape.padded[: len(lengths)])


@settings(deadline=None, max_examples=60)
@given(LENGTHS, TP, CP)
def test_every_slot_is_on_one_rank_and_order_restores_the_pack(lengths, tp, cp):
    shape = PackShape.of(lengths, tp, cp)
    held = [local(shape, rank, cp) for rank in range(cp)]
    assert [len(part) for part in held] == [shape.total // cp] * cp
    gathered = torch.cat(held)
    assert gathered.sort()[0].tolist() == list(range(shape.total))
    packed = PackedSequences.of(shape, 0, cp, "cpu")
    if cp > 1:
        assert gathered[packed.order].tolist() == list(range(shape.total))
    else:
        assert packed.order is None


@settings(deadline=None, max_examples=40)
@given(LENGTHS, TP, CP)
def test_segments_are_the_causal_pairs_of_each_sequence_and_no_others(lengths, tp, cp):
    """Pairs of slots by brute force; the filler, wherever there is one, attends to nothing. All ranks have as many."""
    shape = PackShape.of(lengths, tp, cp)
    found, pairs_of_rank = set(), []
    for rank in range(cp):
        held = local(shape, rank, cp).tolist()
        pairs = set()
        for each in segments(shape, rank, cp):
            for row in range(each.queries):
                seen = each.keys - each.queries + row + 1  # the mask of a square that ends at the last key
                pairs |= {(held[each.query + row], each.key + column) for column in range(seen)}
        pairs_of_rank.append(len(pairs))
        assert not pairs & found
        found |= pairs
    expected = set()
    for start, length in zip(shape.starts, shape.padded[: len(lengths)], strict=False):
        expected |= {(start + query, start + key) for query in range(length) for key in range(query + 1)}
    assert found == expected
    assert len(set(pairs_of_rank)) == 1


@settings(deadline=None, max_examples=40)
@given(LENGTHS, TP, CP)
def test_segments_and_filler_cover_a_rank_s_slots_one_after_the_other(lengths, tp, cp):
    """Attention puts its answers one behind the other, so a gap or an overlap would shift all that follow."""
    shape = PackShape.of(lengths, tp, cp)
    for rank in range(cp):
        packed = PackedSequences.of(shape, rank, cp, "cpu")
        at = 0
        for each in packed.segments:
            assert each.query == at
            at += each.queries
        assert at + packed.filler == shape.total // cp
        assert packed.cu_seqlens_q.tolist() == [*shape.starts, shape.total]
        assert packed.max_seqlen_q == max(shape.padded)


def test_sequences_of_one_token_and_no_sequences_make_a_pack():
    assert PackShape.of([1, 1], tp=2, cp=2) == PackShape((1, 1), (4, 4), 0)
    assert PackShape.of([1], tp=1, cp=1) == PackShape((1,), (1,), 0)
    empty = PackShape.of([], tp=2, cp=2)
    assert empty == PackShape((), (4,), 4)
    packed = PackedSequences.of(empty, 1, 2, "cpu")
    assert (list(packed.segments), packed.filler) == ([], 2)


def test_a_longer_pack_is_filled_up_and_its_sequences_stay_where_they_were():
    """In a pipeline all micro-batches are as long as the longest."""
    short, long = PackShape.of([5, 3], 1, 2), PackShape.of([5, 3], 1, 2, at_least=21)
    assert long.padded == (*short.padded, 12)
    assert (long.total, long.tail) == (24, 12)


def test_tensor_parallel_ranks_of_one_context_rank_are_neighbours():
    assert [Place(2, 2, tp, cp).rank for cp in range(2) for tp in range(2)] == [0, 1, 2, 3]


def test_a_part_that_cannot_be_cut_in_two_is_refused_with_the_divisor():
    with pytest.raises(UserError, match="pad sequences to a multiple of 6"):
        positions(3, 0, 3)
