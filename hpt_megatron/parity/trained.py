"""Our side: the same rows through the trainer's processes under a layout, put together again."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hpt_megatron.algorithms.objective.part import Component
from hpt_megatron.config.run import RunConfig
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.mcore.local_processes import run as run_processes
from hpt_megatron.mcore.model.log_probs import Sampling
from hpt_megatron.mcore.worker import MegatronWorker, every_token
from hpt_megatron.parity.reference import Outcome
from hpt_megatron.parity.rows import components as usual_components
from hpt_megatron.protocol.batch import Batch


def trained_outcome(
    run: RunConfig, batch: Batch, policy_loss: str = "gspo", deadline_s: float = 120
) -> tuple[Outcome, int]:
    """Forward and backward over all rows in fresh processes; and how many micro-batches each replica had."""
    processes = run.layout.tp * run.layout.pp * run.layout.cp * run.dp
    said = run_processes(processes, one_process, run, batch, policy_loss, deadline_s=deadline_s)
    return put_together(said, batch), said[0]["micro_batches"]


def one_process(where: Rendezvous, run: RunConfig, batch: Batch, policy_loss: str) -> dict[str, Any]:
    """What one process says."""
    worker = MegatronWorker(run)
    worker.start(where)
    return say(worker, batch, usual_components(policy_loss))


def plain_sampling(worker: MegatronWorker) -> Sampling:
    """Temperature 1 and nothing forbidden, as a plain softmax."""
    return replace(worker.sampling(), temperature=1.0, forbidden=())


def say(worker: MegatronWorker, batch: Batch, parts_of_loss: list[Component]) -> dict[str, Any]:
    """Logits, log-probs, losses and gradients of a started worker; each process brings what it holds."""
    how = plain_sampling(worker)
    numbered = Batch(
        batch.rows.with_tokens(place=torch.arange(batch.rows.num_tokens)), batch.images, batch.shown, batch.counts
    )
    parts = worker.split(numbered)
    places = [part.rows.tokens["place"] for part in parts]
    logits = [(places[at][token], seen) for at, (token, seen) in enumerate(worker.logits(parts, how))]
    said = worker.log_probs(parts, how, with_entropy=True, wanted=every_token(parts))
    report = worker.accumulate(parts, parts_of_loss, how)
    gradients = {name: gradient.clone() for name, gradient in worker.gradients()}  # they are views of its buffers
    return {
        "logits": logits,
        "per_token": list(zip(places, said, strict=True)),
        "micro_batches": len(parts),
        "losses": dict(report.losses),
        "metrics": dict(report.metrics),
        "gradients": gradients if worker.speaks else {},
    }


def put_together(said: list[dict[str, Any]], batch: Batch) -> Outcome:
    """One outcome from what the processes brought; copies must agree."""
    tokens = batch.rows.num_tokens
    logits: Tensor | None = None
    logp, entropy = torch.zeros(tokens), torch.zeros(tokens)
    gradients: dict[str, Tensor] = {}
    for each in said:
        for place, seen in each["logits"]:
            logits = torch.zeros(tokens, seen.shape[1]) if logits is None else logits
            logits[place] = seen
        for place, of_part in each["per_token"]:
            logp[place], entropy[place] = of_part["logp"], of_part["entropy"]
        gradients |= each["gradients"]
        assert each["losses"] == said[0]["losses"], "processes disagree on the loss"
    assert logits is not None
    return Outcome(logits, logp, entropy, said[0]["losses"], gradients)
