"""What users of `DataProto` do with a batch, each against the same thing done with lists; and the page that maps names.

Rows hold their own number in every column, and show the image of it, so that a row that went astray is seen.
"""

import importlib
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "batch.md"
COUNTS = st.integers(0, 7)
quick = settings(max_examples=30)


def batch(count):
    """Row i has i % 3 tokens, all of them i, and shows the image i."""
    every = list(range(count))
    ids = [[row] * (row % 3) for row in every]
    flat = torch.tensor([token for row in ids for token in row], dtype=torch.int64)
    rows = Rows(torch.tensor([len(row) for row in ids], dtype=torch.int64), {"ids": flat, "logp": flat / 2})
    rows = rows.with_fields(prompt=torch.arange(count) // 2, score=torch.arange(count) / 4)
    images = Images(torch.ones(count, 3, dtype=torch.int64), torch.arange(float(count))[:, None], torch.zeros(count))
    return Batch(rows, images, torch.arange(count), torch.ones(count, dtype=torch.int64))


def order_of(made):
    """The numbers of a batch's rows, checked against all that they hold."""
    numbers = (made.rows.fields["score"] * 4).long().tolist()
    lengths = made.rows.lengths.tolist()
    assert lengths == [number % 3 for number in numbers]
    assert [part.tolist() for part in made.rows.tokens["ids"].split(lengths)] == [[n] * (n % 3) for n in numbers]
    assert torch.equal(made.rows.tokens["logp"], made.rows.tokens["ids"] / 2)
    seen = [made.images.pick(made.shown_by(row))[:, 0].tolist() for row in range(len(numbers))]
    assert seen == [[float(number)] for number in numbers]
    return numbers


@quick
@given(COUNTS, st.integers(1, 5))
def test_pieces_are_the_rows_in_order_and_differ_by_one_row_at_most(count, pieces):
    made = batch(count).chunk(pieces)
    sizes = [piece.rows.num_rows for piece in made]
    assert len(sizes) == pieces
    assert max(sizes) - min(sizes) <= 1
    assert [row for piece in made for row in order_of(piece)] == list(range(count))


@quick
@given(COUNTS, st.integers(0, 3))
def test_rows_are_repeated_behind_themselves_or_behind_all(count, times):
    assert order_of(batch(count).repeat(times)) == [row for row in range(count) for _ in range(times)]
    assert order_of(batch(count).repeat(times, interleave=False)) == [*range(count)] * times


@quick
@given(COUNTS, st.integers(1, 6))
def test_padding_fills_up_to_a_multiple_with_rows_from_the_front_and_goes_away_again(count, divisor):
    padded, more = batch(count).padded(divisor)
    assert padded.rows.num_rows % divisor == 0
    assert 0 <= more < divisor
    assert order_of(padded) == [*range(count), *(row % max(count, 1) for row in range(more))]
    assert order_of(padded.unpadded(more)) == list(range(count))


def test_rows_of_padding_are_trained_on_nowhere_and_not_valid():
    rows = Rows.from_lists({"ids": [[1, 2], [3]], "trained": [[0, 1], [1]]}, valid=[True, True])
    padded, more = Batch.of_text(rows).padded(4)
    assert padded.rows.tokens["trained"].tolist() == [False, True, True, False, False, False]
    assert padded.rows.fields["valid"].tolist() == [True, True, False, False]
    assert torch.equal(padded.unpadded(more).rows.tokens["trained"], rows.tokens["trained"])


@quick
@given(st.sets(st.sampled_from(["ids", "logp"])), st.sets(st.sampled_from(["prompt", "score"])))
def test_what_is_popped_and_what_is_left_make_the_whole_again(tokens, fields):
    whole = batch(5)
    popped, left = whole.rows.pop(sorted(tokens), sorted(fields))
    assert (set(popped.tokens), set(popped.fields)) == (tokens, fields)
    assert not set(left.tokens) & tokens
    assert order_of(whole.with_rows(left).union(whole.with_rows(popped))) == [0, 1, 2, 3, 4]


def test_columns_are_kept_and_renamed_by_kind_for_one_name_may_stand_in_both():
    rows = batch(3).rows.with_fields(ids=torch.arange(3))
    assert list(rows.rename(tokens={"ids": "words"}).tokens) == ["words", "logp"]
    assert "ids" in rows.rename(tokens={"ids": "words"}).fields
    both = rows.only(["ids"], ["ids"])
    assert (list(both.tokens), list(both.fields)) == (["ids"], ["ids"])


def refusal(act):
    with pytest.raises(ValueError, match=r"\w") as caught:
        act()
    return str(caught.value)


def test_what_cannot_be_done_names_the_row_and_the_column():
    whole = batch(5)
    rows = whole.rows
    logp = rows.tokens["logp"].clone()
    logp[3] = 9.0  # rows have 0, 1, 2, 0, 1 tokens: the only one of row 4
    says = refusal(lambda: rows.union(rows.with_tokens(logp=logp)))
    assert says == "token column 'logp', row 4 (prompt 2), token 0: 2.0 here, 9.0 there"
    odd = rows.with_fields(score=torch.tensor([0.0, 0.25, 7.0, 0.75, 1.0]))
    assert refusal(lambda: rows.union(odd)) == "field 'score', row 2 (prompt 1): 0.5 here, 7.0 there"
    longer = Rows(torch.tensor([0, 1, 3, 0, 1]), {}, {})
    assert refusal(lambda: rows.union(longer)) == "row 2 (prompt 1) has 2 tokens here, 3 there"
    assert refusal(lambda: rows.union(batch(4).rows)) == "5 rows here, 4 there"
    swapped = Batch(rows, whole.images, torch.tensor([0, 1, 3, 2, 4]), whole.counts)
    assert refusal(lambda: whole.union(swapped)) == "row 2 (prompt 1) shows the images [2] here, [3] there"
    assert refusal(lambda: whole.pick([1, 5])) == "row 5 is asked for, there are 5"
    assert refusal(lambda: rows.pop(["idz"])) == "there is no token column 'idz' among ['ids', 'logp']"
    assert refusal(lambda: rows.rename(fields={"prompt": "score"})) == "two columns would be the field 'score'"
    assert refusal(lambda: Rows(torch.tensor([2, -1]))) == "row 1 has -1 tokens"
    uneven = {"ids": [[1, 2], [3]], "trained": [[0], [1, 1]]}
    assert refusal(lambda: Rows.from_lists(uneven)) == "row 0 has 1 entries of 'trained' and 2 of 'ids'"
    for act in (lambda: whole.chunk(0), lambda: whole.padded(0), lambda: whole.unpadded(6), lambda: whole.repeat(-1)):
        assert refusal(act)


def test_what_is_no_number_is_the_same_in_both_and_another_type_is_not():
    rows = batch(3).rows.with_fields(score=torch.tensor([0.0, float("nan"), 1.0]))
    assert rows.union(rows).fields["score"].isnan().tolist() == [False, True, False]
    assert "torch.float32 here, torch.float64 there" in refusal(
        lambda: rows.union(rows.with_fields(score=rows.fields["score"].double()))
    )


def test_every_name_of_the_table_exists():
    """The right-hand column of docs/batch.md: `Rows.NAME` and `Batch.NAME`, or `path/file.py:NAME`."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(lines) >= 15
    for line in lines:
        theirs, ours = [cell.strip() for cell in line.strip("|").split(" | ")][:2]
        named = re.findall(r"`((?:Rows|Batch|Images)\.(\w+)|[\w/]+\.py:([\w.]+))", ours)
        assert named, f"{theirs} leads nowhere: {ours}"
        for whole, member, symbol in named:
            if member:
                owner = {"Rows": Rows, "Batch": Batch, "Images": Images}[whole.partition(".")[0]]
                found = member in owner.__dataclass_fields__ or hasattr(owner, member)
            else:
                found = importlib.import_module(whole.partition(".py:")[0].replace("/", "."))
                for part in symbol.split("."):
                    found = getattr(found, part)
            assert found, f"{whole} is not there"
