"""What we change inside megatron-core, and when.

Three reasons, kept apart because they hold on different hosts:
    on the CPU          what `hpt_megatron.device` cannot reach by patching torch alone
    without fused Adam  neither Transformer Engine nor apex is there: our Adam takes the place they would take
    everywhere          checkpoints are written in this process, because other threads live in it, and read without
                        running what a pickle says

The list with the reason for each entry is in the docstring of `hpt_megatron.device`; a test compares the two.
"""

import logging
import pkgutil
import queue
from typing import Any

import torch

from hpt_megatron.device import cuda
from hpt_megatron.mcore import capability
from hpt_megatron.mcore.saved.reader import LoadPlanner
from hpt_megatron.mcore.saved.writer import InProcessWriter
from hpt_megatron.mcore.step.adam import Adam
from hpt_megatron.weights.execute.description import MetadataReader

RANDOM = "megatron.core.tensor_parallel.random"
OPTIMIZER = "megatron.core.optimizer"
STRATEGIES = "megatron.core.dist_checkpointing.strategies"


def _set_rng_state(new_state: torch.Tensor, device: Any = -1, graph_safe: bool = False) -> None:
    torch.cuda.set_rng_state(new_state)


def _one_generator(record: logging.LogRecord) -> bool:
    """False for the warning that a draw inside the tracker's context has moved the CPU generator: here it has to."""
    return "CPU RNG state changed" not in record.getMessage()


def _metadata_reader(checkpoint_dir: Any, cache_metadata: bool = False) -> MetadataReader:
    return MetadataReader(checkpoint_dir)


ON_CPU: dict[str, Any] = {f"{RANDOM}._set_cuda_rng_state": _set_rng_state}
LOG_FILTERS_ON_CPU = {RANDOM: _one_generator}
WITHOUT_FUSED_ADAM: dict[str, Any] = {
    f"{OPTIMIZER}.Adam": Adam,
    f"{OPTIMIZER}.USING_PYTORCH_OPTIMIZER": False,
    f"{OPTIMIZER}.distrib_optimizer.Adam": Adam,
    f"{OPTIMIZER}.distrib_optimizer.HAVE_APEX_OR_TE": True,
    f"{OPTIMIZER}.distrib_optimizer.USING_APEX_OPTIMIZER": True,
}
EVERYWHERE: dict[str, Any] = {
    f"{STRATEGIES}.torch.FileSystemWriterAsync": InProcessWriter,
    f"{STRATEGIES}.filesystem_async._results_queue": queue.SimpleQueue(),
    f"{STRATEGIES}.torch._get_filesystem_reader": _metadata_reader,
    f"{STRATEGIES}.torch.MCoreLoadPlanner": LoadPlanner,
}


def apply() -> None:
    """Makes the changes that this host needs; a second call changes nothing."""
    on_cpu = cuda.enable()
    fused = capability.transformer_engine().there or capability.apex().there
    changes = EVERYWHERE | (ON_CPU if on_cpu else {}) | ({} if fused else WITHOUT_FUSED_ADAM)
    for path, value in changes.items():
        owner, name = path.rsplit(".", 1)
        setattr(pkgutil.resolve_name(owner), name, value)
    for name, keep in LOG_FILTERS_ON_CPU.items() if on_cpu else ():
        logging.getLogger(name).addFilter(keep)
