"""A batch in a file and back: bit for bit, nothing in it that runs, harm named in one line."""

import doctest
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hpt_megatron.errors import UserError
from hpt_megatron.protocol import batch_file
from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows

NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True)


def batch(scores, tokens=2):
    count = len(scores)
    ids = torch.arange(count * tokens)
    rows = Rows(torch.full((count,), tokens), {"ids": ids, "trained": ids % 2 == 0, "value": ids / 3})
    rows = rows.with_tokens(old_value=rows.tokens["value"])  # the same memory, as the loop has it
    rows = rows.with_fields(prompt=torch.arange(count), score=torch.tensor(scores, dtype=torch.float32))
    images = Images(torch.tensor([[1, 2, 2]] * count).view(-1, 3), torch.rand(4 * count, 3), torch.zeros(count))
    return Batch(rows, images, torch.arange(count), torch.ones(count, dtype=torch.int64))


def bits(column):
    return column.dtype, column.shape, column.contiguous().view(torch.uint8).tolist() if column.numel() else []


def test_the_example_of_the_module_holds():
    assert doctest.testmod(batch_file) == (0, 4)


@settings(max_examples=25)
@given(scores=st.lists(NUMBERS, max_size=4), tokens=st.integers(0, 2))
def test_what_comes_back_is_what_was_saved_bit_for_bit(tmp_path_factory, scores, tokens):
    path = tmp_path_factory.mktemp("saved") / "batch.safetensors"
    whole = batch(scores, tokens)
    batch_file.save(whole, path)
    back = batch_file.load(path)
    assert list(back.rows.tokens) == list(whole.rows.tokens), "the order of columns too"
    assert list(back.rows.fields) == list(whole.rows.fields)
    for name, column in whole.rows.tokens.items():
        assert bits(back.rows.tokens[name]) == bits(column)
    for name, column in whole.rows.fields.items():
        assert bits(back.rows.fields[name]) == bits(column)
    assert bits(back.images.patches) == bits(whole.images.patches)
    assert [back.shown_by(row) for row in range(len(scores))] == [[row] for row in range(len(scores))]


def test_images_kept_elsewhere_are_in_the_file_themselves(tmp_path):
    lent = Images(torch.tensor([[1, 2, 2]]), torch.zeros(0, 3), torch.zeros(1), (lambda: torch.full((4, 3), 7.0),))
    held = batch([0.5])
    batch_file.save(Batch(held.rows, lent, held.shown, held.counts), tmp_path / "b", {"step": 3})
    assert batch_file.load(tmp_path / "b").images.pick([0])[:, 0].tolist() == [7.0] * 4
    assert batch_file.told(tmp_path / "b") == {"step": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def harmed(path, change):
    batch_file.save(batch([0.5, 1.0]), path)
    columns = load_file(str(path))
    header = {"format": batch_file.FORMAT, "columns": json.dumps(list(columns)), "told": "{}"}
    change(columns, header)
    save_file(columns, str(path), header)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda columns, header: columns.pop("counts"), "holds no 'counts'"),
        (lambda columns, header: header.update(format="x"), "is no batch of this version (x)"),
        (lambda columns, header: columns.update(shown=torch.tensor([0, 5])), "row 1 (prompt 1) shows image 5, there"),
        (lambda columns, header: columns.update(lengths=torch.tensor([2, -2])), "row 1 (prompt 1) has -2 tokens"),
        (
            lambda columns, header: columns.update({"fields.score": torch.zeros(3)}),
            "field 'score' has 3 entries, there are 2 rows",
        ),
        (
            lambda columns, header: columns.update({"tokens.trained": torch.zeros(4)}),
            "'trained' says yes or no, and its type is torch.float32",
        ),
    ],
)
def test_a_file_that_is_no_batch_is_refused_in_a_line_that_names_what_is_wrong(tmp_path, change, says):
    path = tmp_path / "batch.safetensors"
    harmed(path, change)
    with pytest.raises(UserError) as caught:
        batch_file.load(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_one_that_is_something_else_are_the_users(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        batch_file.load(tmp_path / "none")
    (tmp_path / "text").write_text("a pickle, say")
    with pytest.raises(UserError, match="cannot be read"):
        batch_file.load(tmp_path / "text")
