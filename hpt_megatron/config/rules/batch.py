"""Batch sizes and their divisors.

A batch is counted in prompts; a prompt brings `rollouts_per_prompt` rows. Rows that the gate takes away are made up
for by rows of zero weight, so these divisors hold for every outcome.
"""

from collections.abc import Iterator
from math import gcd

from hpt_megatron.config.problem import Problem, neighbours
from hpt_megatron.config.run import RunConfig

MOST_LISTED = 4096  # a bound for the lists of valid sizes in messages


def check_mini_batches(run: RunConfig) -> Iterator[Problem]:
    """A step's prompts divide into mini-batches, one optimizer step each."""
    whole, mini = run.data.train_batch_size, run.trainer.ppo_mini_batch_size
    if mini > whole:
        yield Problem(
            "trainer.ppo_mini_batch_size",
            mini,
            f"is larger than data.train_batch_size ({whole}); a step makes one optimizer step over all its prompts",
            str(whole),
            "warning",
        )
    elif whole % mini:
        yield Problem(
            "data.train_batch_size",
            whole,
            f"does not divide into mini-batches of {mini} prompts (trainer.ppo_mini_batch_size)",
            neighbours(whole, mini),
        )


def check_rows_per_rank(run: RunConfig) -> Iterator[Problem]:
    """A mini-batch's rows divide over data-parallel ranks and, when they are counted, into micro-batches."""
    trainer, dp, rollouts = run.trainer, run.dp, run.rollouts_per_prompt
    mini = min(trainer.ppo_mini_batch_size, run.data.train_batch_size)
    rows = mini * rollouts
    made = f"{mini} prompts x {rollouts} rollouts = {rows} rows"
    step = dp if trainer.use_dynamic_bsz else dp * trainer.ppo_micro_batch_size
    if rows % step:
        prompts = step // gcd(step, rollouts)
        over = f"dp {dp}" + ("" if trainer.use_dynamic_bsz else f" x micro-batches of {trainer.ppo_micro_batch_size}")
        yield Problem(
            "trainer.ppo_mini_batch_size",
            trainer.ppo_mini_batch_size,
            f"{made}, which do not divide by {over}",
            f"{neighbours(mini, prompts)} prompts",
        )


def check_interleaved_micro_batches(run: RunConfig) -> Iterator[Problem]:
    """The interleaved schedule takes micro-batches in groups of pp."""
    layout, trainer = run.layout, run.trainer
    mini = min(trainer.ppo_mini_batch_size, run.data.train_batch_size)
    if layout.vpp <= 1 or layout.pp <= 1 or trainer.use_dynamic_bsz:
        return
    rows = mini * run.rollouts_per_prompt // run.dp
    count = rows // trainer.ppo_micro_batch_size
    if count % layout.pp:
        fitting = [
            size for size in range(1, min(rows, MOST_LISTED) + 1) if rows % size == 0 and rows // size % layout.pp == 0
        ]
        yield Problem(
            "trainer.ppo_micro_batch_size",
            trainer.ppo_micro_batch_size,
            f"makes {count} micro-batches on each rank; vpp {layout.vpp} needs a multiple of pp {layout.pp}",
            ", ".join(map(str, fitting)) or f"a mini-batch with a multiple of {layout.pp} rows on each rank",
        )


def check_row_fits_pack(run: RunConfig) -> Iterator[Problem]:
    """The longest row fits into a pack."""
    trainer, data = run.trainer, run.data
    longest = data.max_prompt_length + data.max_response_length
    if trainer.ppo_max_token_len_per_gpu * run.layout.cp < longest:
        yield Problem(
            "trainer.ppo_max_token_len_per_gpu",
            trainer.ppo_max_token_len_per_gpu,
            f"a row may have {longest} tokens (max_prompt_length + max_response_length)",
            f"at least {-(-longest // run.layout.cp)}",
        )
