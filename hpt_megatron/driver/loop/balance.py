"""From one round of rollouts and its decisions to the rows of the step, with the images that they show.

Rows come and go in `algorithms/assemble.py` alone; here the images follow them, and demonstrations get the columns
that rollouts have.

Invariant: what has no meaning for a demonstration is 0 there (the log-probability of an engine), its score is what the
reward says of the target, and not a number where nobody was asked: such a row then counts in no statistic.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hpt_megatron.algorithms.assemble import assemble
from hpt_megatron.driver.loop.algorithm import Decided
from hpt_megatron.driver.loop.roles import Collected
from hpt_megatron.driver.loop.rollouts import REWARD, WORTH, target_score
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.rows import Rows

PLACE = "place"


@dataclass(frozen=True)
class Balanced:
    """The rows of a round, and what was counted on the way."""

    batch: Batch
    counts: Mapping[str, int]


def balance(collected: Collected, demonstrations: Batch, decided: Decided) -> Balanced:
    """The rows that a round's decisions leave, in the order of its prompts."""
    success = decided.success.to(torch.float32)
    rollouts_made = collected.batch.with_rows(collected.batch.rows.with_fields(success=success))
    right = torch.tensor([outcome.demo_right for outcome in decided.outcomes], dtype=torch.float32)
    shown = scored(demonstrations, collected)
    shown = shown.with_rows(shown.rows.with_fields(success=right[shown.rows.fields["prompt"]]))
    both = Batch.concat([rollouts_made, shown])
    placed = _numbered(both.rows)
    rollouts = collected.batch.rows.num_rows
    every = torch.arange(both.rows.num_rows)
    parts = placed.select(every[:rollouts]), placed.select(every[rollouts:])
    made = assemble(*parts, decided.decisions, decided.success)
    rows = made.rows
    fields = {name: column for name, column in rows.fields.items() if name != PLACE}
    return Balanced(both.select(rows.fields[PLACE]).with_rows(Rows(rows.lengths, rows.tokens, fields)), made.counts)


def scored(demonstrations: Batch, collected: Collected) -> Batch:
    """Demonstrations with the columns of rollouts."""
    rows, like = demonstrations.rows, collected.batch.rows.fields
    places = rows.fields["prompt"].tolist()
    more: dict[str, Tensor] = {}
    for name, column in like.items():
        if name in rows.fields:
            continue
        if name == "score" or name.startswith(REWARD):
            asked = WORTH if name == "score" else name.removeprefix(REWARD)
            told = [target_score(collected.targets, place, asked) for place in places]
            more[name] = torch.tensor(told, dtype=column.dtype)
        else:
            more[name] = torch.zeros(len(places), dtype=column.dtype)
    tokens = {
        name: torch.zeros(rows.num_tokens, dtype=column.dtype)
        for name, column in collected.batch.rows.tokens.items()
        if name not in rows.tokens
    }
    return demonstrations.with_rows(rows.with_fields(**more).with_tokens(**tokens))


def numbered_on(batch: Batch, first: int) -> Batch:
    """The same with its prompts counted from `first`, so that rounds can stand behind one another."""
    return batch.with_rows(batch.rows.with_fields(prompt=batch.rows.fields["prompt"] + first))


def followed(batch: Batch, before: Rows, after: Rows) -> Batch:
    """Credited rows with their images; where some only served the credit, those with a weight are left."""
    if after.num_rows == before.num_rows:
        return batch.with_rows(after)
    learning = torch.stack([before.fields[f"mix_{kind}"] for kind in ("on", "off", "sft")]).any(0)
    return batch.select(learning).with_rows(after)


def _numbered(rows: Rows) -> Rows:
    return rows.with_fields(**{PLACE: torch.arange(rows.num_rows)})
