"""Routing, assembly and credit of one step, beside a copy of the same bytes and the same work done row by row.

    python benchmarks/routing.py                    1,024 prompts x 8 rollouts x 8,192 tokens, one thread
    python benchmarks/routing.py --prompts 128      smaller, the same ratios
    python benchmarks/routing.py --vary             lengths from 1 to 8,192 tokens, as responses have

Row by row is how the released code works: a Python loop over prompts and rows that gathers what stays and appends what
comes, on tensors padded to the longest response.
"""

import argparse

import torch
from clock import times

from hpt_megatron.algorithms.assemble import assemble
from hpt_megatron.algorithms.credit.estimator import CreditSettings
from hpt_megatron.algorithms.credit.group import grpo
from hpt_megatron.algorithms.outcome import count
from hpt_megatron.algorithms.routing.decision import Outcome, route
from hpt_megatron.algorithms.routing.switch import Switch
from hpt_megatron.protocol.rows import Rows


def make(prompts: int, rollouts: int, length: int, off: bool, vary: bool) -> Rows:
    """Rows of one length or of any up to it, with the columns that a step moves."""
    rows = prompts * rollouts
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, length + 1, (rows,), generator=generator) if vary else torch.full((rows,), length)
    tokens = int(lengths.sum())
    return Rows(
        lengths,
        {
            "ids": torch.randint(0, 152_000, (tokens,), dtype=torch.int32, generator=generator),
            "trained": torch.ones(tokens, dtype=torch.bool),
            "off": torch.full((tokens,), off),
            "rollout_logp": torch.rand(tokens, generator=generator),
        },
        {
            "prompt": torch.arange(prompts).repeat_interleave(rollouts),
            "sample": torch.arange(rollouts).repeat(prompts),
            "off": torch.full((rows,), off),
            "valid": torch.ones(rows, dtype=torch.bool),
        },
    )


def step(rollouts: Rows, targets: Rows, success: torch.Tensor, score: torch.Tensor, prompts: int) -> Rows:
    """What a step does between scores and weights."""
    counts = count(rollouts, success, prompts)
    outcomes = [Outcome(n, k) for n, k in zip(counts.n.tolist(), counts.k.tolist(), strict=True)]
    made = assemble(rollouts, targets, route(Switch(), outcomes, 0).decisions, success).rows
    reward = torch.zeros(made.num_tokens)
    reward[made.last(made.tokens["trained"])] = made.fields["score"]
    rows = made.with_tokens(reward=reward)
    return rows.with_tokens(credit=grpo(rows, CreditSettings()).advantage)


def padded(rows: Rows, length: int) -> dict[str, torch.Tensor]:
    """The columns as tensors of one width."""
    wide = torch.arange(length) < rows.lengths[:, None]
    columns = {name: column.new_zeros(rows.num_rows, length) for name, column in rows.tokens.items()}
    for name, column in columns.items():
        column[wide] = rows.tokens[name]
    return columns


Columns = dict[str, torch.Tensor]


def row_by_row(
    columns: Columns, added: Columns, prompt: torch.Tensor, success: torch.Tensor, prompts: int
) -> torch.Tensor:
    """The same on padded tensors with loops over prompts and rows; answers the advantages."""
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in columns}
    scores, owners = [], []
    for each in range(prompts):
        mine = (prompt == each).nonzero()[:, 0].tolist()
        if sum(bool(success[row]) for row in mine) > 0:
            for row in mine:
                for name, column in columns.items():
                    kept[name].append(column[row])
                scores.append(float(success[row]))
                owners.append(each)
        else:
            for name, column in added.items():
                kept[name].append(column[each])
            scores.append(1.0)
            owners.append(each)
    stacked = {name: torch.stack(parts) for name, parts in kept.items()}
    reward = torch.zeros_like(stacked["rollout_logp"])
    reward[:, -1] = torch.tensor(scores)
    groups: dict[int, list[float]] = {}
    for owner, score in zip(owners, scores, strict=True):
        groups.setdefault(owner, []).append(score)
    means = {owner: sum(group) / len(group) if len(group) > 1 else 0.0 for owner, group in groups.items()}
    advantage = torch.tensor([score - means[owner] for owner, score in zip(owners, scores, strict=True)])
    return advantage[:, None] * stacked["trained"]


def main() -> None:
    """Prints the three times and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--vary", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rollouts = make(asked.prompts, asked.rollouts, asked.tokens, False, asked.vary)
    targets = make(asked.prompts, 1, asked.tokens, True, asked.vary)
    generator = torch.Generator().manual_seed(2)
    chance = torch.rand(asked.prompts, generator=generator).pow(3).repeat_interleave(asked.rollouts)
    success = torch.rand(len(chance), generator=generator) < chance
    score = success.float()
    rollouts, targets = rollouts.with_fields(score=score), targets.with_fields(score=torch.ones(asked.prompts))
    made = step(rollouts, targets, success, score, asked.prompts)
    size = sum(column.nbytes for column in made.tokens.values())
    copy = min(times(lambda: [column.clone() for column in made.tokens.values()], asked.repeats))
    ours = min(times(lambda: step(rollouts, targets, success, score, asked.prompts), asked.repeats))
    wide, added = padded(rollouts, asked.tokens), padded(targets, asked.tokens)
    prompt = rollouts.fields["prompt"]
    loops = min(times(lambda: row_by_row(wide, added, prompt, success, asked.prompts), asked.repeats))
    shape = f"{asked.prompts} prompts x {asked.rollouts} rollouts x {asked.tokens} tokens"
    print(f"{shape} -> {made.num_rows} rows, {size / 2**30:.2f} GiB")
    print(f"copy of the same bytes            {copy:8.3f} s")
    print(f"routed, assembled, credited       {ours:8.3f} s  {ours / copy:5.1f} x the copy")
    print(f"row by row                        {loops:8.3f} s  {loops / copy:5.1f} x the copy")


if __name__ == "__main__":
    main()
