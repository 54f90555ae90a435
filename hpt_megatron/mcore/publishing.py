"""The trainer's side of publishing: which rank this process is in the plan, and its parameters by the plan's names.

Invariants
    1. All processes plan from their own configuration; those that come to other plans are told so before they meet.
    2. Nothing here moves weights; `weights/publish/sender.py` does.
"""

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import HptError
from hpt_megatron.mcore.agree import everything_said, first_few
from hpt_megatron.mcore.model.named import parameters_of
from hpt_megatron.weights.plan.parcels import fingerprint, parcels, sent_by
from hpt_megatron.weights.plan.publish import ALL, plans_of_run
from hpt_megatron.weights.publish.sender import Sender, misfits
from hpt_megatron.weights.publish.session import Session
from hpt_megatron.weights.table import HEAD, OUTPUT, Table


def held_tensors(models: Sequence[Any], table: Table) -> list[str]:
    """The checkpoint's tensors that this stage holds; a second copy of a tied one counts where the first is."""
    tied = table.model.tie_word_embeddings
    names = [name for name, _ in parameters_of(models) if not (tied and name == OUTPUT) and not name.startswith(HEAD)]
    return [tensor for name in names for tensor in table.entry(name).checkpoint]


def open_sender(run: RunConfig, models: Sequence[Any], session: Session) -> Sender:
    """This process's sender in a session with some engines."""
    rank = dist.get_rank()
    plans = plans_of_run(run, session.receivers // run.rollout.tensor_parallel_size)
    mine = {which: sent_by(parcels(plan), rank) for which, plan in plans.items()}
    parameters = dict(parameters_of(models))
    wrong = [f"rank {rank}: {each}" for each in misfits(mine, parameters, plans[ALL].element)]
    own = fingerprint(plans[ALL])
    if own != session.fingerprint:
        wrong = [f"rank {rank} plans {own}, the driver {session.fingerprint}"]
    told = everything_said(wrong)
    if told:
        raise HptError(first_few(told), where="publishing", mend="all sides must plan from the same configuration")
    oversize = frozenset(
        (which, number)
        for which, plan in plans.items()
        for number, bucket in enumerate(plan.buckets)
        if bucket.oversize
    )
    return Sender(session, rank, mine, parameters, oversize)
