"""The tensors of a micro-batch, put together again over all ranks; and rows that are refused.

Not covered: that all processes refuse them alike; that is in tests/dist.
"""

import pytest
import torch
from packed_rows import HOLDERS, IMAGE, LAYOUTS, SMALL, TALL, TINY, VIDEO, WIDE, batch_of, places

from hpt_megatron.config.load import load
from hpt_megatron.layout.micro_batches import by_count, plan, split
from hpt_megatron.mcore.packing.pack import batch_positions, build_pack, build_packs, pack_shape
from hpt_megatron.mcore.packing.positions import row_positions
from hpt_megatron.mcore.packing.problems import problems_of
from hpt_megatron.mcore.packing.sequences import Place, local
from hpt_megatron.parity.rows import random_batch
from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows

LLAMA = load(["model=llama-3.1-8b"]).run.model


def wanted_of(batch, seed=0):
    return torch.rand(batch.rows.num_tokens, generator=torch.Generator().manual_seed(seed)) < 0.6


@pytest.mark.parametrize(("tp", "cp"), LAYOUTS)
def test_over_the_ranks_every_wanted_token_is_asked_for_once(tp, cp):
    """Not the first of a row, which nothing predicts. Labels and columns are the token's own; `row` is its row."""
    batch = random_batch(TINY, seed=tp + 10 * cp)
    wanted, rows = wanted_of(batch), batch.rows
    seen = []
    for place in places(tp, cp):
        pack = build_pack(batch, wanted, place, HOLDERS, device="cpu")
        assert pack.slots.tolist() == sorted(set(pack.slots.tolist()))
        assert torch.equal(pack.labels, rows.tokens["ids"][pack.token])
        assert torch.equal(pack.row, rows.row_of_token[pack.token])
        assert set(pack.columns) == set(rows.tokens) - {"ids"}
        assert all(torch.equal(column, rows.tokens[name][pack.token]) for name, column in pack.columns.items())
        if place.tp_rank == 0:
            seen += pack.token.tolist()
    assert sorted(seen) == (wanted & (rows.position > 0)).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(("tp", "cp"), LAYOUTS)
def test_a_slot_holds_the_token_before_its_label(tp, cp):
    """In the same row, one before; checked on the ids of this rank and of the pack put together from all."""
    batch = random_batch(TINY, seed=3)
    rows = batch.rows
    for place in places(tp, cp):
        pack = build_pack(batch, wanted_of(batch), place, HOLDERS, device="cpu")
        assert torch.equal(pack.ids[0, pack.slots], rows.tokens["ids"][pack.token - 1])
        assert torch.equal(rows.row_of_token[pack.token - 1], pack.row)
        assert pack.pictured.tolist() == [bool(batch.shown_by(row)) for row in pack.row.tolist()]
    assert {bool(batch.shown_by(row)) for row in range(rows.num_rows)} == {True, False}


@pytest.mark.parametrize(("tp", "cp"), LAYOUTS)
def test_ids_and_positions_of_a_pack_are_those_of_its_rows_and_padding_is_zero(tp, cp):
    """Positions are whole on every rank; ids are this context rank's."""
    batch = random_batch(TINY, seed=5)
    rows = batch.rows
    shape = pack_shape(batch, Place(tp, cp))
    whole = torch.full((shape.total,), -1)
    for place in places(tp, cp):
        pack = build_pack(batch, wanted_of(batch), place, HOLDERS, device="cpu")
        whole[local(shape, place.cp_rank, cp)] = pack.ids[0]
        assert pack.total == shape.total
        for number, ids in enumerate(torch.split(rows.tokens["ids"], rows.lengths.tolist())):
            start, shown = shape.starts[number], batch.shown_by(number)
            alone = row_positions(ids, [batch.images.grid_list[each] for each in shown], [0.0] * len(shown), HOLDERS)
            assert torch.equal(pack.positions[:, start : start + len(ids)], alone)
    for number, ids in enumerate(torch.split(rows.tokens["ids"], rows.lengths.tolist())):
        start = shape.starts[number]
        assert torch.equal(whole[start : start + len(ids)], ids)
        whole[start : start + len(ids)] = 0
    assert not whole.any()


def test_a_pack_of_no_rows_is_padding_that_asks_for_nothing():
    batch = random_batch(TINY).select(torch.zeros(0, dtype=torch.int64))
    for place in places(2, 2):
        pack = build_pack(batch, torch.zeros(0, dtype=torch.bool), place, HOLDERS, device="cpu")
        assert (pack.total, pack.num_rows, len(pack.slots), pack.ids.tolist()) == (4, 0, 0, [[0, 0]])
    assert batch_positions(batch, HOLDERS).shape == (3, 0)


def test_packs_of_a_pipeline_are_all_as_long_as_the_longest():
    """Messages between stages have one shape; without a pipeline each is as short as it can be."""
    parts = [batch_of([[1] * length], []) for length in (3, 9, 5)]
    masks = [torch.ones(part.rows.num_tokens, dtype=torch.bool) for part in parts]
    assert [pack.total for pack in build_packs(parts, masks, Place(2, 2), HOLDERS, pp=2, device="cpu")] == [12] * 3
    assert [pack.total for pack in build_packs(parts, masks, Place(2, 2), HOLDERS, pp=1, device="cpu")] == [4, 12, 8]


def test_rows_by_their_count_keep_their_order_and_come_once():
    for rows, size, dp, multiple in ((5, 2, 2, 1), (7, 3, 1, 2), (1, 1, 4, 2), (8, 2, 2, 2), (0, 2, 2, 1)):
        found = by_count(rows, size, dp, multiple)
        assert len(found) == dp
        assert len({len(rank) for rank in found}) == 1
        assert len(found[0]) % multiple == 0
        assert sorted(row for rank in found for part in rank for row in part) == list(range(rows))
        assert all(len(part) <= size and list(part) == sorted(part) for rank in found for part in rank)


@pytest.mark.parametrize("dynamic", [True, False])
def test_every_row_is_in_one_micro_batch_with_the_images_it_shows(dynamic):
    """The patches behind a row's numbers are what they were, wherever the row went."""
    run = load(["model=tiny", f"trainer.use_dynamic_bsz={dynamic}", "trainer.ppo_micro_batch_size=2"]).run
    batch = random_batch(TINY, seed=1, rows=9)
    parts = [part for rank in split(batch, run) for part in rank]
    seen = []
    for part in parts:
        for row, prompt in enumerate(part.rows.fields["prompt"].tolist()):
            seen.append(prompt)
            assert part.shown_by(row) == batch.shown_by(prompt)
            assert torch.equal(part.images.pick(part.shown_by(row)), batch.images.pick(batch.shown_by(prompt)))
    assert sorted(seen) == list(range(9))


def test_the_plan_counts_an_image_once_for_all_rows_of_a_pack():
    """Two rows that show the same large image cost one image and two rows of text."""
    run = load(["model=tiny"]).run
    same, other = (plan(batch_of([[1, (0,)], [1, (n,)]], [TALL, TALL]), run).costs[0][0] for n in (0, 1))
    text = plan(batch_of([[1] * 9, [1] * 9], []), run).costs[0][0]
    assert other - same == pytest.approx(same - text)
    assert same > text


def told(batch, longest=100, holders=HOLDERS, vocabulary=TINY.vocab_size):
    return problems_of(batch, holders, longest, vocabulary)


def test_good_rows_have_no_problem():
    """Text, images and videos of all sizes, shared ones; a text family; rows exactly as long as the pack."""
    for seed in range(4):
        assert told(random_batch(TINY, seed)) == []
    assert told(batch_of([[1, (0,), (1,)], [2, (2,), 3]], [SMALL, WIDE, (2, 4, 4)], [0.0, 0.0, 0.5])) == []
    assert told(random_batch(LLAMA, 0), holders=None, vocabulary=LLAMA.vocab_size) == []
    assert told(batch_of([[1] * 100], [])) == []
    assert told(batch_of([], [])) == []


def broken(ids, shown, grids, seconds=None, **columns):
    """A good row, the broken one, and a good one; the second is called row 1 (prompt 11, sample 0)."""
    rows = Rows.from_lists({"ids": [[1, 2], ids, [3]]}, prompt=[10, 11, 12], sample=[0, 0, 0], off=[False, True, False])
    rows = rows.with_tokens(ids=rows.tokens["ids"].long(), **columns)
    good = batch_of([], grids, seconds)
    counts = torch.tensor([0, len(shown), 0])
    return Batch(rows, good.images, torch.tensor(shown, dtype=torch.int64), counts)


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        (broken([5, IMAGE, IMAGE], [0], [SMALL]), "2 image tokens, but its 1 grids ask for 1"),
        (broken([5, IMAGE], [0], [WIDE]), "1 image tokens, but its 1 grids ask for 3"),
        (broken([5, IMAGE], [], [SMALL]), "1 image tokens, but its 0 grids ask for 0"),
        (broken([5, 6], [0], [SMALL]), "0 image tokens, but its 1 grids ask for 1"),
        (broken([5, IMAGE], [1], [SMALL]), "shows image 1, but there are 1"),
        (broken([5, IMAGE], [-1], [SMALL]), "shows image -1, but there are 1"),
        (broken([IMAGE, 5, IMAGE, IMAGE], [0], [WIDE]), "the tokens of image 0 do not stand together"),
        (broken([5, VIDEO], [0], [SMALL]), "the tokens of image 0 do not stand together, or are of the other kind"),
        (broken([5, IMAGE], [0], [SMALL], [1.0]), "or are of the other kind"),
        (broken([5, IMAGE], [0], [(1, 3, 2)]), "image 0 of 1 x 3 x 2 patches cannot be merged by 2 x 2"),
        (broken([5, 6], [0], [(0, 2, 2)]), "image 0 of 0 x 2 x 2 patches cannot be merged"),
        (broken([5] * 101, [], []), "101 tokens do not fit into a pack of 100"),
        (broken([5, 512], [], []), "a token id is outside 0 to 511"),
        (broken([5, -1], [], []), "a token id is outside 0 to 511"),
        (broken([], [], []), "has no token"),
        (
            broken([5, 6], [], [], trained=torch.tensor([True, True, False, False, True])),
            "a demonstration in which nothing is trained; an empty target",
        ),
    ],
)
def test_every_bad_row_is_told_in_one_line_with_its_name(batch, problem):
    lines = told(batch)
    assert len(lines) == 1
    assert lines[0].startswith("row 1 (prompt 11, sample 0): ")
    assert problem in lines[0]
    assert "\n" not in lines[0]


def test_images_for_a_family_without_a_tower_are_refused():
    lines = told(batch_of([[1, 2], [1, (0,)]], [SMALL]), holders=None)
    assert lines == ["row 1 (prompt 11, sample 0): shows images, but the model has no vision tower"]


def test_a_row_without_fields_is_called_by_its_number():
    rows = Rows.from_lists({"ids": [[1], [600]]})
    assert Batch.of_text(rows).images.patches.shape == Images.none().patches.shape
    assert told(Batch.of_text(rows)) == ["row 1: a token id is outside 0 to 511"]
