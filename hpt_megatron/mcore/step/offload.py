"""Moves what training holds out of device memory and back.

    move_out, take_back           everything, so that an engine can use the device in between; gradients and moments
                                  can go first, while weights are still sent
    moments_out, moments_back     the optimizer's own tensors alone: with `trainer.optimizer_offload` they are on the
                                  device for the step and for checkpoints, and in host memory while forward and backward
                                  need room

Gradients are not kept: they are zeroed when they come back. Weights and moments come back exactly. On a host without an
accelerator the same copies are made from memory to memory, so the path is the one that a GPU takes.

Decision: megatron-core has a HybridDeviceOptimizer, which steps on the host. It is not used. In 0.16.1 it refuses a
float32 model, whose shards are views of parameters ("can't optimize a non-leaf Tensor"); in bf16 it fails in its first
step on a host without an accelerator, because it knows parameters by `is_cuda` (a KeyError); and beside its copies on
the host the distributed optimizer's float32 copies stay on the device. What is given up here: for the step itself the
state is on the device, when activations are gone.

Invariants
    1. Buffers are emptied, not replaced, so every view into them (parameters, gradients, and in float32 the optimizer's
       own) is whole again afterwards.
    2. What is out already stays out, and what is there stays as it is: calling twice changes nothing.
    3. Host copies are made once and used again, because pinned memory is slow to get.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

KEPT = "_offloaded"


def _buffers(models: Sequence[Any]) -> Iterator[Any]:
    for model in models:
        yield from getattr(model, "buffers", []) if hasattr(model, "ddp_config") else []


def moments(optimizer: Any) -> Iterator[Tensor]:
    """The optimizer's own tensors: moments, and its float32 copies of parameters where it has any."""
    for part in [] if optimizer is None else optimizer.chained_optimizers:
        if part.is_stub_optimizer:
            continue
        for state in part.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor) and value.dim())
        for group in getattr(part, "shard_fp32_from_float16_groups", []) or []:
            yield from (copy for copy in group if copy is not None)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _own_storage(tensor: Tensor) -> bool:
    return bool(tensor.untyped_storage().nbytes() == _bytes(tensor) > 0)


@torch.no_grad()
def moments_out(optimizer: Any) -> None:
    """The optimizer's own tensors to host memory."""
    for tensor in moments(optimizer):
        if _own_storage(tensor):
            if not hasattr(tensor, KEPT):
                kept = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
                setattr(tensor, KEPT, kept)
            getattr(tensor, KEPT).copy_(tensor)
            tensor.untyped_storage().resize_(0)
    _settle()


@torch.no_grad()
def moments_back(optimizer: Any) -> None:
    """And back to the device."""
    for tensor in moments(optimizer):
        if hasattr(tensor, KEPT) and not tensor.untyped_storage().nbytes():
            tensor.untyped_storage().resize_(_bytes(tensor))
            tensor.copy_(getattr(tensor, KEPT))
    _settle()


@contextmanager
def at_hand(optimizer: Any, otherwise_out: bool) -> Iterator[None]:
    """While this lasts the optimizer's tensors are on the device; afterwards they are out, if that is their place."""
    if otherwise_out:
        moments_back(optimizer)
    try:
        yield
    finally:
        if otherwise_out:
            moments_out(optimizer)


@torch.no_grad()
def move_out(models: Sequence[Any], optimizer: Any, weights: bool = True) -> None:
    """Gradients and the optimizer's tensors out of device memory, and the weights with them."""
    for buffer in _buffers(models):
        if weights and buffer.param_data is not None and buffer.param_data_cpu is None:
            # megatron-core would take `.cpu()`, which is the buffer itself where it is in host memory already.
            buffer.param_data_cpu = torch.empty_like(
                buffer.param_data, device="cpu", pin_memory=buffer.param_data.is_cuda
            )
        buffer.offload_to_cpu(move_params=weights)
    moments_out(optimizer)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@torch.no_grad()
def take_back(models: Sequence[Any], optimizer: Any) -> None:
    """Back to the device; the optimizer's tensors too, unless it is None."""
    for buffer in _buffers(models):
        buffer.reload_from_cpu()
    moments_back(optimizer)


def _settle() -> None:
    """Copies from pinned memory are on their way until the device says otherwise."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
