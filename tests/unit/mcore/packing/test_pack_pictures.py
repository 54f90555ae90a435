"""Who encodes which image and who gets which embedding: all ranks of a layout, one after the other in this process.

Embeddings are numbers here: 1000 times the image plus the place within it. Not covered: the exchange between real
processes; that is in tests/dist.
"""

import pytest
import torch
from packed_rows import HOLDERS, LAYOUTS, SMALL, TALL, WIDE, batch_of, places

from hpt_megatron.layout.cost import vision_cost
from hpt_megatron.mcore.packing.pack import build_pack, pack_shape
from hpt_megatron.mcore.packing.sequences import local

GRIDS = [SMALL, WIDE, TALL, WIDE, (2, 4, 2)]
ROWS = [
    [1, (0,), 2, (2,), 3],
    [4, 5, 6],
    [(1,), 7],
    [8, (2,), (2,), 9],  # the image of the first row again, twice, side by side
    [3] * 13 + [(4,)],
]
SECONDS = [0.0, 0.0, 0.0, 0.0, 1.0]  # the last is a video; image 3 is shown by no row


def packs_of(batch, tp, cp):
    wanted = torch.ones(batch.rows.num_tokens, dtype=torch.bool)
    return [build_pack(batch, wanted, place, HOLDERS, device="cpu") for place in places(tp, cp)]


def encoded(plan):
    """The embeddings that a rank makes of its share: codes read from its patches, four of which make one token."""
    patches = plan.patches[::4]
    return (1000 * patches[:, 0] + patches[:, 1] // 4).long()


def received(packs):
    """What arrives on each rank, sender after sender, as an all-to-all delivers it."""
    pieces = [torch.split(encoded(pack.pictures)[pack.pictures.send], pack.pictures.send_sizes) for pack in packs]
    return [torch.cat([pieces[sender][taker] for sender in range(len(packs))]) for taker in range(len(packs))]


def expected_slots(batch, pack, place):
    """For the tokens of a rank: the code of the embedding that belongs there, or -1."""
    shape = pack_shape(batch, place)
    whole = torch.full((shape.total,), -1)
    for row in range(batch.rows.num_rows):
        ids = torch.split(batch.rows.tokens["ids"], batch.rows.lengths.tolist())[row]
        codes = [
            1000 * number + at
            for number in batch.shown_by(row)
            for at in range(HOLDERS.tokens(batch.images.grid_list[number]))
        ]
        slots = shape.starts[row] + HOLDERS.marks(ids).nonzero()[:, 0]
        whole[slots] = torch.tensor(codes, dtype=torch.int64)
    mine = whole[local(shape, place.cp_rank, place.cp)]
    return mine.chunk(place.tp)[place.tp_rank]


@pytest.mark.parametrize(("tp", "cp"), LAYOUTS)
@pytest.mark.parametrize(
    "rows", [ROWS, ROWS[::-1], ROWS[1:2], ROWS[:1], []], ids=["all", "back", "text", "one", "none"]
)
def test_every_placeholder_gets_its_own_embedding_on_the_rank_that_holds_it(tp, cp, rows):
    """Rows with several images, shared ones, ones that touch, a video; text alone; no row at all."""
    batch = batch_of(rows, GRIDS, SECONDS)
    packs = packs_of(batch, tp, cp)
    uses = 0
    for place, pack, got in zip(places(tp, cp), packs, received(packs), strict=True):
        filled = torch.full((pack.total // place.ranks,), -1)
        filled[pack.pictures.slots] = got
        assert torch.equal(filled, expected_slots(batch, pack, place))
        uses += len(got)
    assert uses == int(HOLDERS.marks(batch.rows.tokens["ids"]).sum())


@pytest.mark.parametrize(("tp", "cp"), LAYOUTS)
def test_ranks_agree_on_what_each_sends_to_each(tp, cp):
    plans = [pack.pictures for pack in packs_of(batch_of(ROWS, GRIDS, SECONDS), tp, cp)]
    for sender, plan in enumerate(plans):
        assert len(plan.send_sizes) == len(plan.receive_sizes) == tp * cp
        assert plan.send_sizes == [other.receive_sizes[sender] for other in plans]
        assert (sum(plan.send_sizes), sum(plan.receive_sizes)) == (len(plan.send), len(plan.slots))


@pytest.mark.parametrize(("tp", "cp"), LAYOUTS)
def test_every_image_that_is_shown_is_encoded_once_and_no_other(tp, cp):
    """Image 2 is shown three times, image 3 never."""
    plans = [pack.pictures for pack in packs_of(batch_of(ROWS, GRIDS, SECONDS), tp, cp)]
    encoders = [sorted(set(plan.patches[:, 0].long().tolist())) for plan in plans]
    assert sorted(number for mine in encoders for number in mine) == [0, 1, 2, 4]
    for plan, mine in zip(plans, encoders, strict=True):
        assert list(map(tuple, plan.grids.tolist())) == [GRIDS[number] for number in mine]
        assert len(plan.patches) == int(plan.grids.prod(1).sum())


def test_a_rank_without_an_image_has_an_empty_share_with_its_channels():
    """So it can encode an empty picture, as its collectives need."""
    plans = [pack.pictures for pack in packs_of(batch_of(ROWS[2:3], GRIDS, SECONDS), 2, 2)]
    empty = [plan for plan in plans if not len(plan.grids)]
    assert len(empty) == 3
    assert {(plan.patches.shape, plan.grids.shape, len(plan.send)) for plan in empty} == {((0, 2), (0, 3), 0)}


@pytest.mark.parametrize(("tp", "cp"), [(2, 1), (2, 2), (4, 2)])
def test_shares_differ_by_at_most_one_image_s_cost(tp, cp):
    """24 images of four sizes; the busiest rank would be no busier than another if its cheapest image were gone."""
    grids = [SMALL, WIDE, TALL, (1, 12, 12)] * 6
    batch = batch_of([[1, *((number,) for number in range(24))]], grids)
    costs = [
        [vision_cost(HOLDERS.vision, tuple(grid)) for grid in pack.pictures.grids.tolist()]
        for pack in packs_of(batch, tp, cp)
    ]
    totals = [sum(mine) for mine in costs]
    for mine in costs:
        assert sum(mine) - min(mine) <= min(totals)


def test_a_model_without_a_tower_has_no_plan():
    batch = batch_of([[1, 2]], [])
    assert build_pack(batch, torch.ones(2, dtype=torch.bool), places(1, 1)[0], None, device="cpu").pictures is None
