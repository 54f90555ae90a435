"""Answers of which one is preferred, as rows: of the data, or of a prompt's own rollouts.

    of_files      the target is preferred to what the data rejects; KTO also takes a target alone, good or bad (`label`)
    of_rollouts   the best of a prompt's rollouts is preferred to its worst, by their score

Rows carry the fields `preferred` (which side), `margin` (how much better, where that is known) and `head` (which number
of a reward model the pair is about); both rows of a pair have the same `prompt`.

Invariants
    1. A pair is whole or not there: where one side is too long or cannot be read, both are left out and counted.
    2. Equal scores are no pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hpt_megatron.algorithms.objective.pairwise import Pairs
from hpt_megatron.data.prompts import Prompt
from hpt_megatron.data.record import Record
from hpt_megatron.data.rows import messages_of
from hpt_megatron.driver.loop.roles import Teacher
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.batch import Batch

CHOSEN, REJECTED = -1, -2
"""The `sample` of a row that nobody sampled."""


@dataclass(frozen=True)
class Paired:
    """Rows of pairs, the names of their prompts by place, and how many pairs were left out."""

    batch: Batch
    domains: Mapping[int, str]
    left_out: int = 0


def of_files(teacher: Teacher, taken: Sequence[Prompt], heads: Sequence[str] = (), alone: bool = False) -> Paired:
    """Pairs of the data; `alone` also takes answers without a partner."""
    records = [prompt.record for prompt in taken]
    good = [(place, record) for place, record in enumerate(records) if record.target and not _is_bad(record)]
    bad = [(place, one) for place, record in enumerate(records) if (one := rejected(record)) is not None]
    sides = [(CHOSEN, good), (REJECTED, bad)]
    shown = [_marked(_show(teacher, side), number, records, heads) for number, side in sides]
    both = Batch.concat(shown)
    kept = torch.ones(both.rows.num_rows, dtype=torch.bool) if alone else _with_both(both)
    asked = {place for _, side in sides for place, _ in side}
    there = set(both.rows.fields["prompt"][kept].tolist())
    return Paired(both.select(kept), {place: domain_of(records[place]) for place in there}, len(asked - there))


def of_rollouts(rollouts: Batch, records: Sequence[Record], least_gap: float) -> Paired:
    """The best and the worst rollout of each prompt, where they differ enough."""
    rows = rollouts.rows
    best: dict[int, tuple[float, int]] = {}
    worst: dict[int, tuple[float, int]] = {}
    numbers = zip(rows.fields["prompt"].tolist(), rows.fields["score"].tolist(), rows.fields["valid"], strict=True)
    for row, (place, score, valid) in enumerate(numbers):
        if valid and score == score:
            best[place] = max(best.get(place, (score, row)), (score, row), key=lambda each: each[0])
            worst[place] = min(worst.get(place, (score, row)), (score, row), key=lambda each: each[0])
    apart = [place for place in sorted(best) if best[place][0] - worst[place][0] > least_gap]
    index = [each[place][1] for place in apart for each in (best, worst)]
    picked = rollouts.select(torch.tensor(index, dtype=torch.int64))
    sides = torch.tensor([True, False] * len(apart), dtype=torch.bool)
    none = torch.zeros(len(index))
    marked = picked.with_rows(picked.rows.with_fields(preferred=sides, margin=none, head=none.long()))
    return Paired(marked, {place: domain_of(records[place]) for place in apart}, len(records) - len(apart))


def pairs_of(batch: Batch, paired: bool, margin: float = 1.0) -> Pairs:
    """Indices of the rows of each pair, and so much of its own margin; of all rows of each side without pairs."""
    preferred = batch.rows.fields["preferred"]
    chosen, other = preferred.nonzero()[:, 0], (~preferred).nonzero()[:, 0]
    if not paired:
        return Pairs(chosen, other)
    place = batch.rows.fields["prompt"]
    partner = {int(place[row]): int(row) for row in other.tolist()}
    chosen = torch.tensor([row for row in chosen.tolist() if int(place[row]) in partner], dtype=torch.int64)
    other = torch.tensor([partner[int(place[row])] for row in chosen.tolist()], dtype=torch.int64)
    return Pairs(chosen, other, margin * batch.rows.fields["margin"][chosen])


def mismatched(batch: Batch, image_pad: int | None) -> Batch:
    """Each prompt with the response of the next one: how KTO measures the distance from the reference.

    Responses that show images stay with their prompts.
    """
    rows = batch.rows
    response, place = rows.tokens["response"], rows.fields["prompt"].tolist()
    holds = torch.zeros_like(response) if image_pad is None else rows.tokens["ids"] == image_pad
    texts = [row for row in range(rows.num_rows) if not bool((holds & response)[_tokens_of(batch, row)].any())]
    pieces, kept, lengths = [], [], []
    for at, row in enumerate(texts):
        other = texts[(at + 1) % len(texts)]
        if place[row] == place[other]:
            continue
        own, its = _tokens_of(batch, row), _tokens_of(batch, other)
        index = torch.cat([own[~response[own]], its[response[its]]])
        pieces.append(index)
        kept.append(row)
        lengths.append(len(index))
    picked = batch.select(torch.tensor(kept, dtype=torch.int64))
    every = torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.int64)
    tokens = {name: column[every] for name, column in rows.tokens.items()}
    fields = dict(picked.rows.fields)
    return picked.with_rows(type(rows)(torch.tensor(lengths, dtype=torch.int64), tokens, fields))


def rejected(record: Record) -> Record | None:
    """The same prompt with the answer that is not wanted, under a name of its own."""
    found: Any = record.extra.get("rejected")
    if _is_bad(record):
        found = [{"role": each.role, "content": each.content} for each in record.target or ()]
    messages = messages_of(found, "assistant")
    return replace(record, index=f"{record.index}/rejected", target=messages, target_images=()) if messages else None


def domain_of(record: Record) -> str:
    """What accuracies are told apart by."""
    return str(record.extra.get("domain") or record.data_source or "all")


def _is_bad(record: Record) -> bool:
    return record.extra.get("label") is False


def _show(teacher: Teacher, side: Sequence[tuple[int, Record]]) -> Batch:
    return teacher.show([record for _, record in side], [place for place, _ in side])


def _marked(shown: Batch, side: int, records: Sequence[Record], heads: Sequence[str]) -> Batch:
    places = shown.rows.fields["prompt"].tolist()
    count = len(places)
    margins = [_number(records[place].extra.get("margin")) for place in places]
    numbers = [_head(records[place], heads) for place in places]
    fields = {
        "sample": torch.full((count,), side, dtype=torch.int64),
        "preferred": torch.full((count,), side == CHOSEN, dtype=torch.bool),
        "margin": torch.tensor(margins, dtype=torch.float32),
        "head": torch.tensor(numbers, dtype=torch.int64),
    }
    return shown.with_rows(shown.rows.with_fields(**fields))


def _with_both(batch: Batch) -> Tensor:
    place, preferred = batch.rows.fields["prompt"], batch.rows.fields["preferred"]
    return torch.isin(place, place[preferred]) & torch.isin(place, place[~preferred])


def _head(record: Record, heads: Sequence[str]) -> int:
    if not heads:
        return 0
    name = record.extra.get("head", heads[0])
    if name not in heads:
        mend = f"one of {', '.join(heads)} (algorithm.preference.heads)"
        raise UserError(f"a pair is about {str(name)[:80]!r}", where=f"row {record.index}, head", mend=mend)
    return list(heads).index(name)


def _number(value: Any) -> float:
    try:
        return float(value or 0.0)
    except (TypeError, ValueError):
        return 0.0


def _tokens_of(batch: Batch, row: int) -> Tensor:
    start = int(batch.rows.starts[row])
    return torch.arange(start, start + int(batch.rows.lengths[row]))
