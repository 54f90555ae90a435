"""What is wrong with rows, one line each, told before anything is planned or computed from them.

Every line begins with the row's name, because whoever reads it has thousands of them. Rows of which nothing is trained
are fine, as fillers and as rollouts without credit; only a demonstration without a target is a mistake of the data.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hpt_megatron.algorithms.objective.part import Component
from hpt_megatron.mcore.packing.positions import Placeholders
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.rows import Rows

COMPUTED = ("entropy", "value", "kl_full")  # columns that the pass itself makes


def problems_of(batch: Batch, holders: Placeholders | None, longest: int, vocabulary: int) -> list[str]:
    """What is wrong with rows, one line each; nothing is built from rows that have a line."""
    found = []
    rows, images = batch.rows, batch.images
    empty = _empty_targets(rows)
    for number, ids in enumerate(torch.split(rows.tokens["ids"], rows.lengths.tolist())):
        name, shown = batch.name(number), batch.shown_by(number)
        beyond = [each for each in shown if not 0 <= each < len(images)]
        if not len(ids):
            found.append(f"{name}: has no token")
            continue
        if len(ids) > longest:
            found.append(f"{name}: {len(ids)} tokens do not fit into a pack of {longest}")
        if not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
            found.append(f"{name}: a token id is outside 0 to {vocabulary - 1}")
        if empty[number]:
            found.append(f"{name}: a demonstration in which nothing is trained; an empty target")
        if beyond:
            found.append(f"{name}: shows image {beyond[0]}, but there are {len(images)}")
            continue
        if holders is None:
            found += [f"{name}: shows images, but the model has no vision tower"] if shown else []
            continue
        found += [f"{name}: {text}" for text in _picture_problems(ids, batch, shown, holders)]
    return found


def _picture_problems(ids: Tensor, batch: Batch, shown: list[int], holders: Placeholders) -> list[str]:
    """Grids by themselves, their placeholders by count, and each picture in one piece of the right kind."""
    for each in shown:
        if not holders.merges(batch.images.grid_list[each]):
            grid = " x ".join(map(str, batch.images.grid_list[each]))
            return [f"image {each} of {grid} patches cannot be merged by {holders.merge} x {holders.merge}"]
    marks = holders.marks(ids).nonzero()[:, 0]
    tokens = [holders.tokens(batch.images.grid_list[each]) for each in shown]
    if len(marks) != sum(tokens):
        return [f"{len(marks)} image tokens, but its {len(shown)} grids ask for {sum(tokens)}"]
    for each, places in zip(shown, torch.split(marks, tokens), strict=True):
        kind = holders.video if float(batch.images.seconds[each]) else holders.image
        if int(places[-1] - places[0]) != len(places) - 1 or bool((ids[places] != kind).any()):
            return [f"the tokens of image {each} do not stand together, or are of the other kind"]
    return []


def _empty_targets(rows: Rows) -> list[bool]:
    """Which rows are demonstrations without a trained token."""
    if "trained" not in rows.tokens or "off" not in rows.fields:
        return [False] * rows.num_rows
    trained = rows.row_sum(rows.tokens["trained"].float()) > 0
    found: list[bool] = (rows.fields["off"].bool() & ~trained).tolist()
    return found


def loss_problems(
    batch: Batch, weighted: Tensor, forbidden: Sequence[int], components: Sequence[Component]
) -> list[str]:
    """What makes rows unfit for a loss: weights where nothing is predicted, columns that are not there."""
    rows, found = batch.rows, []
    for row in rows.row_of_token[weighted & (rows.position == 0)].unique().tolist():
        found.append(f"{batch.name(row)}: its first token cannot be trained, nothing predicts it")
    held_back = torch.isin(rows.tokens["ids"], torch.tensor(list(forbidden), dtype=torch.int64))
    for row in rows.row_of_token[weighted & held_back].unique().tolist():
        found.append(f"{batch.name(row)}: a placeholder is given a weight, and it is never sampled")
    for component in components:
        lacking = [name for name in component.reads if name not in rows.tokens and name not in COMPUTED]
        found += [f"rows have no column {name}, which the loss {component.name} reads" for name in lacking]
    return found
