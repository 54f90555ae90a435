"""The one place that switches the CPU device layer on and forms megatron-core's process groups.

Invariants:
    1. On loopback, which is the default, nothing listens anywhere else. On another host the store listens on that
       address alone, and gloo where `GLOO_SOCKET_IFNAME` or the machine's name says.
    2. `finalize` undoes `initialize`, except for the patches: one set of processes can go through several layouts.
    3. The backend is nccl where there is a GPU and gloo where there is none; nothing else here depends on the device.

Example (one process):

    initialize(tp=1)
    ...
    finalize()
"""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from hpt_megatron.errors import UserError
from hpt_megatron.mcore import patches

LOOPBACK = "127.0.0.1"
INTERFACE = "GLOO_SOCKET_IFNAME"

_restricted: list[str] = []  # filled while the interface above is ours to take back


@dataclass(frozen=True)
class Rendezvous:
    """Where the processes of a run meet, and which of them this one is.

    The first one may bring a `listener` of that port: else another program can take it before the first one listens.
    """

    rank: int = 0
    world_size: int = 1
    host: str = LOOPBACK
    port: int = 0
    listener: socket.socket | None = None

    @classmethod
    def from_environment(cls) -> "Rendezvous":
        """What torchrun and our launchers set; one process alone when nothing is set."""
        env = os.environ
        return cls(
            rank=int(env.get("RANK", "0")),
            world_size=int(env.get("WORLD_SIZE", "1")),
            host=env.get("MASTER_ADDR", LOOPBACK),
            port=int(env.get("MASTER_PORT", "0")),
        )


def _store(where: Rendezvous, timeout: timedelta) -> dist.TCPStore:
    """The store behind the process groups; torch's own server would listen on every address of the host."""
    if where.rank:
        return dist.TCPStore(where.host, where.port, where.world_size, is_master=False, timeout=timeout)
    listener = where.listener
    if listener is None or listener.fileno() < 0:  # a listener is used up by the first group that forms
        listener = socket.create_server((where.host, where.port))
    port = listener.getsockname()[1]
    return dist.TCPStore(
        where.host,
        port,
        where.world_size,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def initialize(
    tp: int = 1,
    pp: int = 1,
    cp: int = 1,
    vpp: int | None = None,
    seed: int = 1234,
    where: Rendezvous | None = None,
    timeout_s: float = 600,
) -> None:
    """Joins the other processes and forms the groups of a layout; data parallelism takes what is left."""
    patches.apply()
    where = where or Rendezvous.from_environment()
    if where.world_size % (tp * pp * cp):
        raise UserError(
            f"{where.world_size} processes cannot be divided by tp * pp * cp = {tp} * {pp} * {cp}",
            where="layout",
            mend=f"start a multiple of {tp * pp * cp} processes",
        )
    if where.world_size > 1 and not where.port:
        raise UserError("several processes need a port to meet at", where="MASTER_PORT", mend="set it to a free port")
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", where.rank % torch.cuda.device_count())))
    elif where.host in (LOOPBACK, "localhost") and INTERFACE not in os.environ:
        os.environ[INTERFACE] = "lo"  # gloo would listen where the machine's name points to
        _restricted.append(where.host)
    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=_store(where, timeout),
        rank=where.rank,
        world_size=where.world_size,
        timeout=timeout,
    )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=vpp,
        context_parallel_size=cp,
        distributed_timeout_minutes=max(1, int(timeout_s // 60)),
    )
    tensor_parallel.model_parallel_cuda_manual_seed(seed, force_reset_rng=True)


def finalize() -> None:
    """Leaves the process groups, so that `initialize` can form others."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
    if _restricted:
        _restricted.clear()
        os.environ.pop(INTERFACE, None)
