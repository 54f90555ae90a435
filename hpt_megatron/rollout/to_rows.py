"""Trajectories and demonstrations as rows of a batch, with the images that they show.

Columns (`protocol/rows.py` says what they mean): tokens `ids`, `response`, `trained`, `logp`, `off`, `turn`; fields
`prompt`, `sample`, `valid`, `off`. Both kinds have all of them, so that the two can be joined. A demonstration is
`off` over its whole response and trained on what its assistant says there: in one turn these are the same, in a chat
with images they are not. A rollout that goes on from the start of its demonstration is `off` and trained there.

Invariants
    1. An image that several rows show is held once, and its patches are computed once.
    2. A row whose placeholders are not as many as its images' visual tokens is left out and counted (`image_tokens`),
       and so is one without a turn, by what ended it (`prompt_overflow`): there is nothing in it to train on.
    3. `kept` says which trajectories the rows are, in order.

Example: rows = to_rows(trajectories, prompts, rules, image_pad); rows.batch.rows.tokens["trained"]
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from hpt_megatron.data.pictures import PictureRules, patches
from hpt_megatron.data.record import Record
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows
from hpt_megatron.rollout.agent.prompting import Prompting
from hpt_megatron.rollout.agent.views import View
from hpt_megatron.rollout.trajectory import Trajectory

LOG = logging.getLogger(__name__)
CHANNELS = 3


@dataclass(frozen=True)
class Made:
    """Rows, which of what was given they are, and what was left out by reason."""

    batch: Batch
    kept: tuple[int, ...]
    left_out: dict[str, int]


@dataclass(frozen=True)
class Row:
    """One row in plain lists."""

    ids: Sequence[int]
    response: Sequence[bool]
    trained: Sequence[bool]
    logp: Sequence[float]
    off: Sequence[bool]
    turn: Sequence[int]
    images: Sequence[View]
    prompt: int
    sample: int
    valid: bool
    demonstration: bool = False


def to_rows(done: Sequence[Trajectory], prompts: Sequence[int], rules: PictureRules, image_pad: int) -> Made:
    """Rows of trajectories; `prompts` says of each which prompt of the batch it belongs to."""
    rows: list[Row] = []
    kept: list[int] = []
    left_out: Counter[str] = Counter()
    for i, (one, prompt) in enumerate(zip(done, prompts, strict=True)):
        why = "" if one.shows_what_it_says(image_pad) else "image_tokens"
        why = why if one.num_sampled or one.is_demonstration else one.finish
        if why:
            left_out[why] += 1
            continue
        response = [place >= one.num_prompt for place in range(len(one.ids))]
        off = [bool(given) for given in one.prefix_mask]
        trained = [(bool(own) or given) and one.valid for own, given in zip(one.loss_mask, off, strict=True)]
        logp, turn = one.rollout_logprobs, one.turn_id
        row = Row(one.ids, response, trained, logp, off, turn, one.images, prompt, one.sample, one.valid)
        rows.append(replace(row, demonstration=one.is_demonstration))
        kept.append(i)
    return Made(batch_of(rows, rules), tuple(kept), dict(left_out))


def demonstrations(
    records: Sequence[Record], prompts: Sequence[int], prompting: Prompting, max_tokens: int | None = None
) -> Made:
    """Rows of the records that have a target, with `sample` -1, behind the prompts that rollouts get.

    A target of more tokens than `max_tokens` is left out: half a demonstration teaches to stop in the middle.
    """
    rows: list[Row] = []
    kept: list[int] = []
    left_out: Counter[str] = Counter()
    for i, (record, prompt) in enumerate(zip(records, prompts, strict=True)):
        if not record.target:
            left_out["no_target"] += 1
            continue
        try:
            row = demonstration(record, prompt, prompting)
        except UserError as error:
            LOG.warning("demonstration %s: %s", record.index, error)
            left_out["unreadable"] += 1
            continue
        if max_tokens is not None and sum(row.response) > max_tokens:
            left_out["target_overflow"] += 1
            continue
        rows.append(row)
        kept.append(i)
    return Made(batch_of(rows, prompting.viewer.rules), tuple(kept), dict(left_out))


def demonstration(record: Record, prompt: int, prompting: Prompting) -> Row:
    """A target as one row: the prompt, then a chat of which the assistant's part is trained."""
    made = prompting.made(record)
    ids = [*made.ids, *made.target_ids]
    response = [place >= len(made.ids) for place in range(len(ids))]
    trained = [*[False] * len(made.ids), *made.target_trained]
    views = prompting.views((*record.images, *record.target_images))
    logp, turn = [0.0] * len(ids), _turns(trained, response)
    return Row(ids, response, trained, logp, response, turn, views, prompt, -1, True, demonstration=True)


def _turns(trained: Sequence[bool], response: Sequence[bool]) -> list[int]:
    """As of a trajectory: k in turn k, -k - 1 after it, -1 in the prompt."""
    found: list[int] = []
    k = 0
    for place, (own, behind) in enumerate(zip(trained, response, strict=True)):
        k += own and not (place and trained[place - 1])
        found.append(k if own else -k - 1 if behind else -1)
    return found


def batch_of(rows: Sequence[Row], rules: PictureRules) -> Batch:
    """Rows with their images, each held once."""
    numbers: dict[Any, int] = {}
    views: list[View] = []
    shown: list[int] = []
    for row in rows:
        for view in row.images:
            key = (view.source, view.region, view.grid) if view.source is not None else id(view.image)
            if key not in numbers:
                numbers[key] = len(views)
                views.append(view)
            shown.append(numbers[key])
    counts = torch.tensor([len(row.images) for row in rows], dtype=torch.int64)
    return Batch(_packed(rows), _images(views, rules), torch.tensor(shown, dtype=torch.int64), counts)


def _packed(rows: Sequence[Row]) -> Rows:
    def column(name: str, kind: torch.dtype) -> torch.Tensor:
        return torch.tensor([item for row in rows for item in getattr(row, name)], dtype=kind)

    def field(name: str, kind: torch.dtype) -> torch.Tensor:
        return torch.tensor([getattr(row, name) for row in rows], dtype=kind)

    tokens = {name: column(name, torch.bool) for name in ("response", "trained", "off")}
    tokens |= {"ids": column("ids", torch.int64), "turn": column("turn", torch.int64)}
    tokens["logp"] = column("logp", torch.float32)
    fields = {"prompt": field("prompt", torch.int64), "sample": field("sample", torch.int64)}
    fields |= {"valid": field("valid", torch.bool)}
    fields["off"] = field("demonstration", torch.bool)
    return Rows(torch.tensor([len(row.ids) for row in rows], dtype=torch.int64), tokens, fields)


def _images(views: Sequence[View], rules: PictureRules) -> Images:
    if not views:
        return Images.none(CHANNELS * rules.temporal * rules.patch**2)
    grids = torch.tensor([view.grid for view in views], dtype=torch.int64)
    pixels = torch.cat([torch.from_numpy(patches(view.image, rules)) for view in views])
    return Images(grids, pixels, torch.zeros(len(views)))
