"""From rollouts, targets and decisions to the rows that are trained: the one place where rows come and go.

Invariants
    1. The order is stable: by prompt, then by sample; a demonstration stands last in its group, with `sample` -1.
    2. Rollouts that are not valid are left out. `drop` takes that many of the others away, failures first and the
       later ones first among equals.
    3. A demonstration row is trained on its target's tokens and marked `off` there; it is never made from an empty
       target. The end token is part of the target's tokens.
    4. Each row carries the three weights of its prompt (`mix_on`, `mix_off`, `mix_sft`); `off` decides which of them
       acts on a token. Rows that nothing would be learned from are left out.
    5. A greedy rollout (field `greedy`) is the baseline of its prompt. No decision drops it: it stays as long as one
       sampled rollout of the prompt does, with all its weights 0, also where it is not valid, so that the estimator
       can tell a lost baseline from one that was never asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpt_megatron.algorithms.routing.decision import Decision
from hpt_megatron.protocol.rows import Rows


@dataclass(frozen=True)
class Assembled:
    """The rows of a step, and what was counted on the way."""

    rows: Rows
    counts: dict[str, int]


def assemble(rollouts: Rows, demonstrations: Rows, decisions: Sequence[Decision], success: Tensor) -> Assembled:
    """Rows of every prompt as its decision says.

    `demonstrations` holds at most one row per prompt, with the same columns as the rollouts (prompt tokens, then the
    target's); prompts without a usable target have none.
    """
    valid, greedy = rollouts.fields["valid"], rollouts.flag("greedy")
    sampled = valid & ~greedy
    mixes = torch.tensor([[d.mix.on, d.mix.off, d.mix.sft] for d in decisions], dtype=torch.float32).view(-1, 3)
    drops = torch.tensor([decision.drop for decision in decisions], dtype=torch.int64)
    wanted = torch.tensor([decision.demo for decision in decisions], dtype=torch.bool)
    stay = sampled & ~_dropped(rollouts, sampled, drops, success) & (mixes[:, 0] != 0)[rollouts.fields["prompt"]]
    compared = torch.zeros(len(decisions), dtype=torch.bool).index_fill(0, rollouts.fields["prompt"][stay], True)
    removed = int(sampled.sum()) - int(stay.sum())
    stay |= greedy & compared[rollouts.fields["prompt"]]
    usable = demonstrations.row_sum(demonstrations.tokens["trained"].float()) > 0
    come = wanted[demonstrations.fields["prompt"]] & usable
    demonstrations = demonstrations.with_fields(sample=torch.full_like(demonstrations.fields["sample"], -1))
    chosen = torch.cat([stay, come]).nonzero()[:, 0]
    prompt, sample = (torch.cat([rollouts.fields[key], demonstrations.fields[key]]) for key in ("prompt", "sample"))
    place = torch.where(sample < 0, torch.iinfo(sample.dtype).max, sample)
    order = chosen[place[chosen].argsort(stable=True)]
    rows = Rows.pick([rollouts, demonstrations], order[prompt[order].argsort(stable=True)])
    mix = torch.where(rows.flag("greedy")[:, None], 0.0, mixes[rows.fields["prompt"]])
    rows = rows.with_fields(mix_on=mix[:, 0], mix_off=mix[:, 1], mix_sft=mix[:, 2])
    return Assembled(
        rows,
        {
            "rollouts": rollouts.num_rows,
            "not_valid": int((~valid).sum()),
            "removed": removed,
            "demonstrations": int(come.sum()),
            "targets_missing": int(wanted.sum()) - int(come.sum()),
        },
    )


def without_baselines(rows: Rows) -> Rows:
    """What the trainer gets once credit is given: rows whose three weights are 0, which only the credit needed, go."""
    learning = torch.stack([rows.fields[f"mix_{kind}"] for kind in ("on", "off", "sft")]).any(0)
    return rows if bool(learning.all()) else rows.select(learning)


def _dropped(rollouts: Rows, sampled: Tensor, drops: Tensor, success: Tensor) -> Tensor:
    """[R] which of the sampled ones go: the first `drops` of each prompt, failures first, later samples first."""
    order = sampled.nonzero()[:, 0]
    for key in (-rollouts.fields["sample"], success.to(torch.int8), rollouts.fields["prompt"]):  # the last one leads
        order = order[key[order].argsort(stable=True)]
    grouped = rollouts.fields["prompt"][order]
    rank = torch.arange(len(order)) - torch.searchsorted(grouped, grouped)
    gone = torch.zeros(rollouts.num_rows, dtype=torch.bool)
    gone[order] = rank < drops[grouped]
    return gone
