"""The processes of a distributed test: those of `hpt_megatron.mcore.local_processes`, with pytest imported once too."""

from collections.abc import Callable
from typing import Any

from hpt_megatron.mcore import local_processes
from hpt_megatron.host.ports import free_port
from hpt_megatron.mcore.local_processes import DEADLINE_S

__all__ = ["DEADLINE_S", "free_port", "run"]


def run(processes: int, job: Callable[..., Any], *arguments: Any, deadline_s: float | None = None) -> list[Any]:
    """Runs `job(where, *arguments)` in fresh processes; answers what each returned, by rank."""
    preload = ["pytest", "hpt_megatron.parity.trained", *local_processes.PRELOAD]
    return local_processes.run(processes, job, *arguments, preload=preload, deadline_s=deadline_s)
