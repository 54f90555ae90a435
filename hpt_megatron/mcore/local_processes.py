"""Several processes of a layout on this host, for a job that ends: comparisons, benchmarks, tests.

Every job gets fresh processes. They come from multiprocessing's fork server, which has imported torch and megatron-core
once (seconds) and is forked per process (milliseconds). It has no threads and no process group when it is forked.

Invariants:
    1. A process that raises sends its traceback, and the job fails with it.
    2. A process that hangs prints where, and ends itself at the deadline; the parent waits no longer than that.
    3. A process stays until all have answered: rank 0 keeps the store that a slower one still asks.
    4. Only processes started here are ended.
"""

import faulthandler
import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from hpt_megatron.errors import UserError
from hpt_megatron.host.ports import listener
from hpt_megatron.mcore.initialize import Rendezvous

PRELOAD = ["hpt_megatron.mcore.worker"]
DEADLINE_S = 120


def _send(pipe: Connection, good: bool, answer: Any) -> None:
    """By value: torch's own way shares memory, which is gone with the process."""
    pipe.send_bytes(pickle.dumps((good, answer)))


def _serve(job: Callable[..., Any], where: Rendezvous, given: bytes, answer: Connection, deadline_s: float) -> None:
    faulthandler.dump_traceback_later(deadline_s, exit=True)
    import torch

    torch.set_num_threads(1)
    try:
        _send(answer, True, job(where, *pickle.loads(given)))
    except UserError as error:
        _send(answer, False, error)
    except BaseException:
        _send(answer, False, traceback.format_exc())
    answer.poll(None)  # until the parent closes its end
    os._exit(0)  # a peer that failed leaves collectives behind which a normal exit would wait for


def run(
    processes: int,
    job: Callable[..., Any],
    *arguments: Any,
    preload: Sequence[str] = PRELOAD,
    deadline_s: float | None = None,
) -> list[Any]:
    """Runs `job(where, *arguments)` in fresh processes; answers what each returned, by rank.

    What is preloaded is decided by the first call in a process. A `UserError` of a process is raised here as it is.
    """
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    meeting = listener() if processes > 1 else None
    port = meeting.getsockname()[1] if meeting is not None else 0
    deadline = deadline_s or DEADLINE_S
    given = pickle.dumps(arguments)  # by value, as the answers
    started, pipes = [], {}
    for rank in range(processes):
        mine, theirs = context.Pipe()
        where = Rendezvous(rank=rank, world_size=processes, port=port, listener=None if rank else meeting)
        started.append(context.Process(target=_serve, args=(job, where, given, theirs, deadline), daemon=True))
        started[-1].start()
        theirs.close()
        pipes[mine] = rank
    if meeting is not None:
        meeting.close()  # the first process has it
    try:
        return _collect(pipes, deadline)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in started:
            process.join(timeout=1)
            if process.is_alive():
                process.kill()
                process.join()


def _collect(pipes: dict[Connection, int], deadline_s: float) -> list[Any]:
    """What the processes send; the first failure ends the wait."""
    answers: dict[int, Any] = {}
    waiting = dict(pipes)
    while waiting:
        ready = wait(list(waiting), timeout=deadline_s + 10)
        if not ready:
            raise TimeoutError(f"ranks {sorted(waiting.values())} did not answer")
        for pipe in ready:
            rank = waiting.pop(pipe)
            try:
                good, answer = pickle.loads(pipe.recv_bytes())
            except EOFError:
                raise RuntimeError(f"rank {rank} ended without an answer; its last words are on stderr") from None
            if isinstance(answer, UserError):
                raise answer
            if not good:
                raise RuntimeError(f"rank {rank} failed:\n{answer}")
            answers[rank] = answer
    return [answers[rank] for rank in sorted(answers)]
