"""Rows with numbered images, and one rank's share of them: what the tests of packing build on."""

import torch

from hpt_megatron.config.load import load
from hpt_megatron.mcore.packing.positions import Placeholders
from hpt_megatron.mcore.packing.sequences import Place
from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows

TINY = load(["model=tiny"]).run.model
HOLDERS = Placeholders.of(TINY)
IMAGE, VIDEO = HOLDERS.image, HOLDERS.video
SMALL, WIDE, TALL = (1, 2, 2), (1, 2, 6), (1, 8, 4)  # 1, 3 and 8 merged tokens
LAYOUTS = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4), (4, 2), (2, 4), (8, 1)]


def images_of(grids, seconds=None):
    """Every patch holds the number of its image and its own number within it."""
    sizes = [frames * height * width for frames, height, width in grids]
    codes = [[[float(number), float(at)] for at in range(size)] for number, size in enumerate(sizes)]
    patches = torch.tensor([patch for image in codes for patch in image]).reshape(-1, 2)
    times = torch.zeros(len(grids)) if seconds is None else torch.tensor(seconds)
    return Images(torch.tensor(grids, dtype=torch.int64).reshape(-1, 3), patches, times)


def batch_of(rows, grids, seconds=None, **columns):
    """Rows as lists of ids and of `image n` numbers given as (n,); every image's tokens are written out."""
    images = images_of(grids, seconds)
    ids, shown = [], []
    for row in rows:
        written, mine = [], []
        for piece in row:
            if isinstance(piece, tuple):
                number = piece[0]
                kind = VIDEO if images.seconds[number] else IMAGE
                written += [kind] * HOLDERS.tokens(images.grid_list[number])
                mine.append(number)
            else:
                written.append(piece)
        ids.append(written)
        shown.append(mine)
    packed = Rows.from_lists({"ids": ids}, prompt=list(range(10, 10 + len(rows))), sample=[0] * len(rows))
    packed = packed.with_tokens(ids=packed.tokens["ids"].long(), **columns)
    flat = torch.tensor([number for mine in shown for number in mine], dtype=torch.int64)
    return Batch(packed, images, flat, torch.tensor([len(mine) for mine in shown], dtype=torch.int64))


def places(tp, cp):
    """All ranks that share a pack, in their order."""
    return [Place(tp, cp, tp_rank, cp_rank) for cp_rank in range(cp) for tp_rank in range(tp)]
