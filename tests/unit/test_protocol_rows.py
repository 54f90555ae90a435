"""Packed rows: every operation against the same thing done with lists."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.protocol.rows import Rows

LISTS = st.lists(st.lists(st.integers(-9, 9), max_size=5), max_size=6)


def pack(lists):
    lengths = torch.tensor([len(row) for row in lists], dtype=torch.int64)
    flat = torch.tensor([x for row in lists for x in row], dtype=torch.int64)
    return Rows(lengths, {"x": flat}, {"name": torch.arange(len(lists))})


def unpack(rows):
    return [part.tolist() for part in rows.tokens["x"].split(rows.lengths.tolist())] if rows.num_rows else []


@given(lists=LISTS, data=st.data())
def test_select_takes_whole_rows_in_the_order_of_the_index(lists, data):
    index = data.draw(st.lists(st.integers(0, max(len(lists) - 1, 0)), max_size=8)) if lists else []
    taken = pack(lists).select(torch.tensor(index, dtype=torch.int64))
    assert unpack(taken) == [lists[i] for i in index]
    assert taken.fields["name"].tolist() == index


@given(lists=LISTS)
def test_sums_positions_and_lasts_are_those_of_the_lists(lists):
    rows = pack(lists)
    assert rows.row_sum(rows.tokens["x"].double()).tolist() == [float(sum(row)) for row in lists]
    assert rows.position.tolist() == [i for row in lists for i in range(len(row))]
    starts, mask = rows.starts.tolist(), rows.tokens["x"] > 0
    expected = [
        max([start + i for i, x in enumerate(row) if x > 0], default=-1)
        for start, row in zip(starts, lists, strict=True)
    ]
    assert rows.last(mask).tolist() == expected
    assert rows.per_token(rows.fields["name"]).tolist() == [i for i, row in enumerate(lists) for _ in row]


@given(one=LISTS, two=LISTS)
def test_concat_puts_one_after_the_other(one, two):
    assert unpack(Rows.concat([pack(one), pack(two)])) == one + two


def test_a_mask_selects_as_its_index_does():
    rows = pack([[1], [2, 2], [], [3]])
    assert unpack(rows.select(torch.tensor([True, False, True, True]))) == [[1], [], [3]]


def test_row_sums_are_differentiable():
    rows = pack([[1, 2], [3]])
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (rows.row_sum(x) * torch.tensor([2.0, 5.0], dtype=torch.float64)).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 5.0]


def test_a_column_of_another_length_is_named():
    with pytest.raises(ValueError, match="token column 'ids' has 2 entries, the rows have 3"):
        Rows(torch.tensor([3]), {"ids": torch.zeros(2)})
    with pytest.raises(ValueError, match="field 'prompt' has 2 entries, there are 1 rows"):
        Rows(torch.tensor([3]), {}, {"prompt": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"differ in the columns \['y'\]"):
        Rows.concat([pack([[1]]), pack([[1]]).with_tokens(y=torch.zeros(1))])


def test_a_flag_that_rows_do_not_carry_is_no_for_all():
    rows = pack([[1], [2, 3]])
    assert rows.flag("greedy").tolist() == [False, False]
    assert rows.with_fields(greedy=torch.tensor([False, True])).flag("greedy").tolist() == [False, True]


@pytest.mark.parametrize("name", ["response", "trained", "off"])
def test_a_mask_over_tokens_that_is_not_bool_is_named(name):
    """A mask of numbers would select by index where rows are picked with it, and say nothing."""
    with pytest.raises(ValueError, match=f"'{name}' says yes or no, and its type is torch.float32"):
        Rows(torch.tensor([2]), {name: torch.ones(2)})


@pytest.mark.parametrize("name", ["off", "valid", "greedy"])
def test_a_mask_over_rows_that_is_not_bool_is_named(name):
    with pytest.raises(ValueError, match=f"'{name}' says yes or no, and its type is torch.int64"):
        Rows(torch.tensor([2]), {}, {name: torch.ones(1, dtype=torch.int64)})
