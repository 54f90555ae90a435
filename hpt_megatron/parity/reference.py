"""The reference: the model as transformers loads it, one row at a time, with plain logits and autograd."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils.logging import disable_progress_bar

from hpt_megatron.algorithms.objective.part import OPTIONAL, Component, View
from hpt_megatron.config.model import ModelConfig
from hpt_megatron.errors import UserError
from hpt_megatron.mcore.step.objective import WEIGHT
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.weights.table import canonical


@dataclass(frozen=True)
class Outcome:
    """What one side says: per token (0 at each row's first), in sum, and per tensor of the checkpoint."""

    logits: Tensor  # [T, vocabulary], of the distribution that each token was drawn from
    logp: Tensor
    entropy: Tensor
    losses: dict[str, float]
    gradients: dict[str, Tensor]


def load_reference(folder: str | Path) -> Any:
    """The model in float32; nothing of the folder is run."""
    disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        loaded = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            str(error).splitlines()[0], where=str(folder), mend="give a folder that transformers loads"
        ) from error
    return loaded.eval()


def reference_outcome(folder: str | Path, model: ModelConfig, batch: Batch, components: list[Component]) -> Outcome:
    """Forward and backward over all rows."""
    network = load_reference(folder)
    # transformers gives the padding token's embedding no gradient; where it is a token like any other, it has one.
    network.get_input_embeddings().padding_idx = None
    rows = batch.rows
    predicted = _predicted(network, model, batch)
    spread = predicted.log_softmax(-1)
    logp = spread.gather(1, rows.tokens["ids"][:, None])[:, 0]
    entropy = -(spread.exp() * spread).sum(-1)
    losses = {}
    for component in components:
        stored = {name: rows.tokens[name] for name in (*component.reads, *OPTIONAL) if name in rows.tokens}
        weight = rows.tokens.get(f"{WEIGHT}{component.name}", torch.zeros_like(logp))
        view = View.of_rows(logp, weight, rows.row_of_token, entropy=entropy, **stored)
        losses[component.name] = component(view).loss
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    first = rows.position == 0
    gradients = {
        canonical(name): param.grad if param.grad is not None else torch.zeros_like(param)
        for name, param in network.named_parameters()
    }
    return Outcome(
        predicted.detach(),
        logp.detach().masked_fill(first, 0.0),
        entropy.detach().masked_fill(first, 0.0),
        {name: loss.item() for name, loss in losses.items()},
        gradients,
    )


@torch.no_grad()
def reference_logits(folder: str | Path, model: ModelConfig, batch: Batch) -> Tensor:
    """Forward alone: [T, vocabulary]."""
    return _predicted(load_reference(folder), model, batch)


def _predicted(network: Any, model: ModelConfig, batch: Batch) -> Tensor:
    logits = []
    for number, ids in enumerate(torch.split(batch.rows.tokens["ids"], batch.rows.lengths.tolist())):
        said = network(input_ids=ids[None], use_cache=False, **_pictures(network, model, batch, number, ids)).logits[0]
        logits.append(torch.cat((torch.zeros_like(said[:1]), said[:-1])))  # what token t was drawn from stands at t
    return torch.cat(logits)


def _pictures(network: Any, model: ModelConfig, batch: Batch, row: int, ids: Tensor) -> dict[str, Tensor]:
    """What transformers takes beside the ids of a row with images."""
    shown = batch.shown_by(row)
    if not shown:
        return {}
    images = batch.images
    given = {"pixel_values": images.pick(shown), "image_grid_thw": images.grids[shown]}
    if "mm_token_type_ids" in inspect.signature(network.forward).parameters:
        given["mm_token_type_ids"] = torch.eq(ids, model.image_token_id or -1).int()[None]
    return given
