"""A checkpoint on its way to disk while training goes on.

    saving = Saving(request)       a copy in host memory is made before this returns: later steps change nothing in it
    saving.written()               whether this rank's files are on disk
    saving.finish()                all ranks together: names the files, so that the folder is a checkpoint

Decision: a thread, not a fork (`writer.py` says why). Writing and `fsync` let the other threads of the process run. It
is kept from one save to the next: Python waits for ever for a new thread that finds no memory to begin with.

Invariants
    1. One at a time: megatron-core hands what was written over in one queue.
    2. `finish` is collective, so the caller calls it on all ranks at the same point of its work.
    3. What goes wrong in the thread is raised by `finish`, on the rank where it did, before it waits for the others.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch.distributed as dist
from torch import Tensor


class Saving:
    """See the module; `request` is what megatron-core's `save` answers with `async_sharded_save`."""

    def __init__(self, request: Any) -> None:
        self._request = request
        arguments = list(request.async_fn_args)
        if request.preload_fn is not None:
            arguments[1] = _copies(arguments[1], request.preload_fn())
        self._written = _thread().submit(self._write, *arguments)

    def _write(self, *arguments: Any) -> None:
        if self._request.async_fn is not None:  # this rank has something to write
            self._request.async_fn(*arguments, **self._request.async_fn_kwargs)

    def written(self) -> bool:
        """Whether this rank is done; never waits."""
        return self._written.done()

    def finish(self) -> None:
        """Waits for every rank, and makes the folder a checkpoint."""
        self._written.result()
        dist.barrier()
        for finalize in self._request.finalize_fns:
            finalize()


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="checkpoint")


def _copies(given: list[Any], loaded: list[Any]) -> list[Any]:
    """The files to write, each with objects and tensors. What was moved out of a device is a copy already."""
    copies = []
    for (_, _, (_, own)), (file, key, (objects, tensors)) in zip(given, loaded, strict=True):
        ours = {id(value) for _, value in own}  # in host memory: moving it there gave the tensor itself
        copies.append((file, key, (objects, [(item, _apart(value, ours)) for item, value in tensors])))
    return copies


def _apart(value: Tensor, ours: set[int]) -> Tensor:
    return value.clone() if id(value) in ours else value
