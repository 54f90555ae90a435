"""Batches between processes: no copy of their bytes, the same rows and images on the other side."""

import pickle

import torch

from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows


def batch(first: int, images: int) -> Batch:
    rows = Rows.from_lists({"ids": [[first, 2, 3], [4]], "trained": [[0, 1, 1], [0]]}, prompt=[first, first])
    grids = torch.tensor([[1, 2, 2]] * images).view(-1, 3)
    held = Images(grids, torch.full((4 * images, 6), float(first)), torch.zeros(images))
    return Batch(rows, held, torch.arange(images), torch.tensor([images, 0]))


def test_tensors_travel_out_of_band_and_share_memory():
    sent, buffers = batch(1, 2), []
    stream = pickle.dumps(sent, protocol=5, buffer_callback=buffers.append)
    assert sum(buffer.raw().nbytes for buffer in buffers) >= sent.images.patches.nbytes
    come = pickle.loads(stream, buffers=[buffer.raw() for buffer in buffers])
    assert come.rows.tokens["trained"].dtype == torch.bool
    assert come.rows.tokens["ids"].tolist() == [1, 2, 3, 4]
    assert come.shown_by(0) == [0, 1]
    sent.images.patches[0] = 9.0  # seen on the other side: it is the same memory
    assert float(come.images.patches[0, 0]) == 9.0


def test_batches_are_joined_with_their_images():
    joined = Batch.concat([batch(1, 2), batch(5, 1)])
    assert [joined.shown_by(row) for row in range(4)] == [[0, 1], [], [2], []]
    assert float(joined.images.pick([2])[0, 0]) == 5.0
    assert joined.rows.fields["prompt"].tolist() == [1, 1, 5, 5]


def test_images_that_are_kept_elsewhere_are_asked_for_when_they_are_picked():
    asked = []

    def keeper(number: int):
        return lambda: asked.append(number) or torch.full((4, 6), float(number))

    kept = Images(torch.tensor([[1, 2, 2]] * 2), torch.zeros(0, 6), torch.zeros(2), (keeper(7), keeper(8)))
    held = batch(1, 2)
    lent = Batch(held.rows, kept, held.shown, held.counts)
    joined = Batch.concat([lent, batch(5, 1)])
    assert len(joined.images) == 3
    assert asked == []
    assert joined.images.pick([1, 2])[:, 0].tolist() == [8.0] * 4 + [5.0] * 4
    assert asked == [8]
