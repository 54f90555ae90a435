"""From the credited rows of a step to optimizer steps, each over whole prompts.

Decision: the old policy of the first optimizer step is the policy itself, so a step with one update needs no forward
pass for its log-probs: rows without `old_logp` mean that. With more updates they are computed before the first.

Invariants
    1. All rows of a prompt are in one update; an update has `ppo_mini_batch_size` prompts, the last one what is left.
    2. Denominators are those of the whole update, whatever micro-batches it is cut into.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean

import torch

from hpt_megatron.algorithms.objective.part import Component
from hpt_megatron.config.run import RunConfig
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.layout.micro_batches import assigned
from hpt_megatron.protocol.batch import Batch


def updates(batch: Batch, run: RunConfig) -> Iterator[Batch]:
    """The rows of each optimizer step."""
    prompt = batch.rows.fields["prompt"]
    prompts = torch.unique(prompt)
    size = run.trainer.ppo_mini_batch_size
    for first in range(0, len(prompts), size):
        yield batch.select(torch.isin(prompt, prompts[first : first + size]))


def num_updates(batch: Batch, run: RunConfig) -> int:
    """How many there are."""
    return -(-len(torch.unique(batch.rows.fields["prompt"])) // run.trainer.ppo_mini_batch_size)


def micro_batch_of_row(batch: Batch, run: RunConfig) -> torch.Tensor:
    """[R] the micro-batch that computes each row, counted through over all ranks."""
    number = torch.zeros(batch.rows.num_rows, dtype=torch.int64)
    at = 0
    for rank in assigned(batch, run):
        for rows in rank:
            number[list(rows)] = at
            at += 1
    return number


def weighted(part: Batch, algorithm: Algorithm, components: Sequence[Component]) -> Batch:
    """The rows of an optimizer step with the weights of some components on their tokens."""
    run = algorithm.run
    return part.with_rows(algorithm.weighted(part.rows, micro_batch_of_row(part, run), run.dp, components))


def seqlen_metrics(parts: Sequence[Batch], run: RunConfig) -> dict[str, float]:
    """`global_seqlen/*`: tokens of a data-parallel rank, dealt in order and as packed; means over optimizer steps."""
    found = [_seqlen(part, run) for part in parts if part.rows.num_rows]
    return {name: fmean(each[name] for each in found) for name in found[0]} if found else {}


def _seqlen(part: Batch, run: RunConfig) -> dict[str, float]:
    lengths = part.rows.lengths
    in_order = [float(piece.sum()) for piece in torch.tensor_split(lengths, run.dp)]
    packed = in_order
    if run.dp > 1:
        packed = [float(sum(int(lengths[list(rows)].sum()) for rows in rank)) for rank in assigned(part, run)]
    return {
        "global_seqlen/min": min(in_order),
        "global_seqlen/max": max(in_order),
        "global_seqlen/minmax_diff": max(in_order) - min(in_order),
        "global_seqlen/balanced_min": min(packed),
        "global_seqlen/balanced_max": max(packed),
        "global_seqlen/mean": fmean(in_order),
    }
