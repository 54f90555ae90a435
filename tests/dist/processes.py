"""Starts the processes of a distributed test, and sees to it that none outlives its deadline.

Every job gets fresh processes. They come from multiprocessing's fork server, which has imported torch and megatron-core
once (seconds) and is forked per process (milliseconds). It has no threads and no process group when it is forked.

Invariants:
    1. A process that raises sends its traceback, and the test fails with it.
    2. A process that hangs prints where, and ends itself at the deadline; the parent waits no longer than that.
    3. Only processes started here are ended.
"""

import faulthandler
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from hpt_megatron.mcore.initialize import Rendezvous

PRELOAD = ["pytest", "hpt_megatron.mcore.checkpoint", "hpt_megatron.mcore.layer_spec", "hpt_megatron.mcore.patches"]
DEADLINE_S = 120


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _serve(job: Callable[..., Any], where: Rendezvous, arguments: Any, answer: Connection, deadline_s: float) -> None:
    faulthandler.dump_traceback_later(deadline_s, exit=True)
    import torch

    torch.set_num_threads(1)
    try:
        answer.send((True, job(where, *arguments)))
    except BaseException:
        answer.send((False, traceback.format_exc()))
    answer.close()
    os._exit(0)  # a peer that failed leaves collectives behind which a normal exit would wait for


def run(processes: int, job: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Runs `job(where, *arguments)` in fresh processes; answers what each returned, by rank."""
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    port = free_port() if processes > 1 else 0
    started, pipes = [], {}
    for rank in range(processes):
        mine, theirs = context.Pipe(duplex=False)
        where = Rendezvous(rank=rank, world_size=processes, port=port)
        started.append(context.Process(target=_serve, args=(job, where, arguments, theirs, DEADLINE_S), daemon=True))
        started[-1].start()
        theirs.close()
        pipes[mine] = rank
    try:
        return _collect(pipes)
    finally:
        for process in started:
            process.join(timeout=1)
            if process.is_alive():
                process.kill()
                process.join()


def _collect(pipes: dict[Connection, int]) -> list[Any]:
    """What the processes send; the first failure ends the wait."""
    answers: dict[int, Any] = {}
    waiting = dict(pipes)
    while waiting:
        ready = wait(list(waiting), timeout=DEADLINE_S + 10)
        if not ready:
            raise TimeoutError(f"ranks {sorted(waiting.values())} did not answer")
        for pipe in ready:
            rank = waiting.pop(pipe)
            try:
                good, answer = pipe.recv()
            except EOFError:
                raise RuntimeError(f"rank {rank} ended without an answer; its last words are on stderr") from None
            if not good:
                raise RuntimeError(f"rank {rank} failed:\n{answer}")
            answers[rank] = answer
    return [answers[rank] for rank in sorted(answers)]
