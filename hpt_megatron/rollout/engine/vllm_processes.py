"""vLLM's processes on a host without a GPU: forked from one that has imported vLLM, instead of importing it each.

An import of vLLM is 20 seconds of a core, and an engine is a process or more. The fork server imports beside this
process, so the first engine waits for one import instead of two, and an engine that is started again waits for none.

Decision: a server of our own, not the one of `multiprocessing`, which others here have for other imports.

Invariants
    1. The server is forked while it has neither threads nor devices: it does nothing but import.
    2. A process has the environment that its parent had when it was started, as a spawned one.
    3. The server ends when the process that began it ends.
    4. What vLLM asks the loader to preload is taken back: it is for threads that it binds, and none are bound here; no
       process is begun anew that would read it, but every other one that is; and no path with a space can stand in it.

Example: fork_server() before vLLM is imported, use_fork_server() after it was.
"""

import importlib
import io
import os
from functools import cache
from multiprocessing import popen_forkserver, reduction, spawn, util
from multiprocessing.context import ForkServerContext, ForkServerProcess, set_spawning_popen
from multiprocessing.forkserver import ForkServer, read_signed
from typing import Any

PRELOAD = [
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.qwen2_5_vl",
    "hpt_megatron.rollout.engine.vllm_worker",
    "hpt_megatron.rollout.engine.vllm_mask",
]
PRELOAD_OF_LOADER = "LD_PRELOAD"
PRELOADED = os.environ.get(PRELOAD_OF_LOADER)
STARTERS = ("vllm.v1.engine.utils", "vllm.v1.engine.coordinator")
"""vLLM's modules that start processes from here; those that an engine starts itself are its own affair."""


@cache
def fork_server() -> ForkServer:
    """Begins to import."""
    server = ForkServer()
    server.set_forkserver_preload(PRELOAD)
    server.ensure_running()
    return server


def use_fork_server() -> None:
    """vLLM starts its processes so from here on."""
    for name in STARTERS:
        importlib.import_module(name).get_mp_context = _context  # type: ignore[attr-defined]


class _Popen(popen_forkserver.Popen):
    """That of multiprocessing, but for the server that it asks."""

    def _launch(self, process_obj: Any) -> None:
        prepared, written = spawn.get_preparation_data(process_obj._name), io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(prepared, written)
            reduction.dump(process_obj, written)
        finally:
            set_spawning_popen(None)
        self.sentinel, pipe = fork_server().connect_to_new_process(self._fds)  # type: ignore[attr-defined]
        alive = os.dup(pipe)  # what the process sees closing when this one ends
        self.finalizer = util.Finalize(self, util.close_fds, (alive, self.sentinel))  # type: ignore[attr-defined]
        with open(pipe, "wb", closefd=True) as file:
            file.write(written.getbuffer())
        self.pid = read_signed(self.sentinel)


class _Process(ForkServerProcess):
    """One with its parent's environment."""

    def start(self) -> None:
        os.environ.pop(PRELOAD_OF_LOADER, None)
        if PRELOADED is not None:
            os.environ[PRELOAD_OF_LOADER] = PRELOADED
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        for name in os.environ.keys() - self._environment.keys():
            del os.environ[name]
        # Only what differs: a process whose environment was written anew cannot be given its name (`VLLM::EngineCore`).
        os.environ.update(self._environment.items() - os.environ.items())
        super().run()

    @staticmethod
    def _Popen(process_obj: Any) -> popen_forkserver.Popen:  # noqa: N802  (multiprocessing's own name)
        return _Popen(process_obj)


class _Context(ForkServerContext):
    Process = _Process


@cache
def _context() -> ForkServerContext:
    """In place of vLLM's `get_mp_context`."""
    return _Context()
