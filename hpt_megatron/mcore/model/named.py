"""Parameters of a stage under their names over the whole model, and their parts put together again.

A stage counts its layers from 0; over the whole model they are counted through. Every loop over weights goes through
`parameters_of`, so there is one place that knows.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.utils import unwrap_model
from torch import Tensor

from hpt_megatron.errors import UserError
from hpt_megatron.weights.entry import cut, join
from hpt_megatron.weights.hf_folder import HfFolder
from hpt_megatron.weights.table import HEAD, VISUAL, Table

LAYER = "decoder.layers."


def parameters_of(models: Sequence[torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Every parameter that this process holds, stage after stage."""
    for model in unwrap_model(list(models)):
        layers = model.decoder.layers
        offset = layers[0].layer_number - 1 if len(layers) else 0
        for name, param in model.named_parameters():
            if name.startswith(LAYER):
                number, rest = name.removeprefix(LAYER).split(".", 1)
                name = f"{LAYER}{int(number) + offset}.{rest}"
            yield name, param


def mark_cut(models: Sequence[torch.nn.Module], table: Table) -> None:
    """Tells megatron-core which parameters are cut over tensor parallelism, and along which axis.

    Its layers do so themselves only when they also draw the weights. Without the mark a cut parameter counts as a copy,
    and the norm of the gradient leaves out what the other ranks hold.
    """
    for name, param in parameters_of(models):
        kind = table.kind(name)
        if kind != "replicated" and not getattr(param, "tensor_model_parallel", False):
            for attribute in ("tensor_model_parallel", "partition_dim", "partition_stride"):
                param.__dict__.pop(attribute, None)  # megatron-core sets them once
            set_tensor_model_parallel_attributes(param, True, 1 if kind == "columns" else 0, 1)


@torch.no_grad()
def fill(models: Sequence[torch.nn.Module], table: Table, folder: HfFolder) -> list[str]:
    """Loads this process's part of every parameter from a checkpoint of the hub; a scalar head keeps its start.

    Answers what is wrong instead of raising it: other processes read other tensors, and all must stop together.
    """
    problems = table.contradictions(folder.names())
    if problems:
        return problems
    rank, ranks = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()
    tower = {name for name, _ in parameters_of(models) if name.startswith(VISUAL)}
    strangers = [name for name in folder.names() if tower and name.startswith(VISUAL) and name not in tower]
    problems += [f"has {name}, unknown here" for name in strangers]
    for name, param in parameters_of(models):
        if name.startswith(HEAD):
            continue
        entry = table.entry(name)
        try:
            tensors = [folder.tensor(each) for each in entry.checkpoint]
            part = cut(entry.kind, tensors, rank, ranks, table.fusion)
        except (UserError, RuntimeError, ValueError) as error:
            problems.append(
                str(error) if isinstance(error, UserError) else f"{entry.checkpoint[0]} does not fit: {error}"
            )
            continue
        if part.shape != param.shape:
            made = f"{' + '.join(entry.checkpoint)} makes {list(part.shape)}"
            problems.append(f"{made} where the model has {list(param.shape)}")
            continue
        param.data.copy_(part)
    return problems


def whole(name: str, part: Tensor, table: Table) -> list[tuple[str, Tensor]]:
    """The checkpoint's tensors of a parameter, from the parts of all tensor-parallel ranks, which call it together."""
    entry = table.entry(name)
    shards = [part]
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    if ranks > 1 and entry.kind != "replicated":
        shards = [torch.empty_like(part) for _ in range(ranks)]
        dist.all_gather(shards, part.contiguous(), group=parallel_state.get_tensor_model_parallel_group())
    return list(zip(entry.checkpoint, join(entry.kind, shards, table.fusion), strict=True))


@torch.no_grad()
def gradients_whole(models: Sequence[torch.nn.Module]) -> None:
    """Brings the reduced gradients together, of which the distributed optimizer leaves each rank its part."""
    for model in models:
        for buffer in model.buffers:
            group = buffer.data_parallel_group
            for bucket in buffer.buckets if group.size() > 1 else ():
                mine = bucket.grad_data.chunk(group.size())[group.rank()].clone()
                dist.all_gather_into_tensor(bucket.grad_data, mine, group=group)
