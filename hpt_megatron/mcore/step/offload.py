"""Moves what training holds out of device memory and back, so that an engine can use it in between.

Gradients are not kept: they are zeroed when they come back. Weights and moments come back exactly. On a host without an
accelerator the same copies are made from memory to memory, so the path is the one that a GPU takes.

Invariant: buffers are emptied, not replaced, so every view into them (parameters, gradients, and in float32 the
optimizer's own) is whole again afterwards.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

KEPT = "_offloaded"


def _buffers(models: Sequence[Any]) -> Iterator[Any]:
    for model in models:
        yield from getattr(model, "buffers", []) if hasattr(model, "ddp_config") else []


def _moments(optimizer: Any) -> Iterator[Tensor]:
    """The optimizer's own tensors: moments, and its float32 copies of parameters where it has any."""
    for part in [] if optimizer is None else optimizer.chained_optimizers:
        if part.is_stub_optimizer:
            continue
        for state in part.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor) and value.dim())
        for group in getattr(part, "shard_fp32_from_float16_groups", []) or []:
            yield from (copy for copy in group if copy is not None)


def _own_storage(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def _host_copy(tensor: Tensor) -> Tensor:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
    return copy.copy_(tensor)


@torch.no_grad()
def move_out(models: Sequence[Any], optimizer: Any) -> None:
    """To host memory; twice in a row changes nothing."""
    for buffer in _buffers(models):
        if buffer.param_data is not None and buffer.param_data_cpu is None:
            # megatron-core would take `.cpu()`, which is the buffer itself where it is in host memory already.
            buffer.param_data_cpu = torch.empty_like(
                buffer.param_data, device="cpu", pin_memory=buffer.param_data.is_cuda
            )
        buffer.offload_to_cpu()
    for tensor in _moments(optimizer):
        if not hasattr(tensor, KEPT) and _own_storage(tensor):
            setattr(tensor, KEPT, _host_copy(tensor))
            tensor.untyped_storage().resize_(0)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


@torch.no_grad()
def take_back(models: Sequence[Any], optimizer: Any) -> None:
    """Back to the device; without a `move_out` before it changes nothing."""
    for buffer in _buffers(models):
        buffer.reload_from_cpu()
    for tensor in _moments(optimizer):
        kept = getattr(tensor, KEPT, None)
        if kept is not None:
            tensor.untyped_storage().resize_(kept.numel() * kept.element_size())
            tensor.copy_(kept)
            delattr(tensor, KEPT)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
