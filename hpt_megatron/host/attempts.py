"""What is tried of each part, one attempt per process: `python -P attempts.py NAME` prints one line of JSON.

It is run by path and imports nothing of this package, so that it works wherever the asker works; `-P` keeps the
current folder from shadowing an engine. Whatever the engines print goes to stderr: stdout carries the answer alone.

Example:
    $ python -P hpt_megatron/host/attempts.py ray
    {"detail": "imported"}
"""

import datetime
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

Answer = dict[str, Any]


def product_rate(torch: Any, device: str, size: int, kind: Any) -> float:
    """Operations per second of a matrix product, whose values are checked against double precision."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(device, kind) for _ in range(2))
    result = left @ right
    exact = left[:8].double() @ right.double()
    error = float((result[:8].double() - exact).abs().max() / exact.abs().max())
    if not error < 0.02:  # bfloat16 keeps 8 bits; not-a-number fails as well
        raise ArithmeticError(f"a matrix product on {device} is wrong by {error:.2g} of its largest value")
    rounds, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < 0.3:
        result = left @ right
        rounds += 1
        if device != "cpu":
            torch.cuda.synchronize()
    return float(rounds * 2 * size**3 / spent)


def torch_product() -> Answer:
    """Imports torch and multiplies matrices on the CPU and on a card that it sees."""
    torch = importlib.import_module("torch")
    cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rate = product_rate(torch, "cpu", 1024, torch.float32)
    said = [f"{'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPU'} build"]
    said.append(f"float32 product at {rate / 1e9:.0f} GFLOP/s on {torch.get_num_threads()} threads")
    if cards:
        said.append(f"bfloat16 at {product_rate(torch, 'cuda', 4096, torch.bfloat16) / 1e12:.0f} TFLOP/s on the card")
    return {"version": torch.__version__, "detail": ", ".join(said), "cuda": torch.version.cuda, "cards": cards}


def gloo_rank(torch: Any, rank: int, store: str) -> None:
    """One of two ranks: joins the group and checks one sum over both."""
    group = torch.distributed
    timeout = datetime.timedelta(seconds=30)
    group.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timeout)
    sent = torch.arange(4.0) * (rank + 1)
    group.all_reduce(sent)
    if sent.tolist() != [0.0, 3.0, 6.0, 9.0]:
        raise ArithmeticError(f"a sum over two ranks is wrong: {sent.tolist()}")
    group.barrier()
    group.destroy_process_group()


def gloo_group() -> Answer:
    """Starts a gloo group of two processes over the loopback interface."""
    # Without a name gloo asks the resolver for this host's address, which many containers cannot answer.
    interface = os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch = importlib.import_module("torch")
    importlib.import_module("torch.distributed")
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        other = os.fork()  # no operation has started a thread yet
        if other == 0:
            try:
                gloo_rank(torch, 1, store)
                os._exit(0)
            except BaseException as error:
                sys.stderr.write(f"rank 1: {error}\n")
                sys.stderr.flush()
                os._exit(1)
        gloo_rank(torch, 0, store)
        _, status = os.waitpid(other, 0)
        if status != 0:
            raise RuntimeError("the second rank failed")
    return {"detail": f"two ranks on {interface}, a sum over both is right"}


def megatron() -> Answer:
    """Imports megatron-core with its model classes."""
    core = importlib.import_module("megatron.core")
    importlib.import_module("megatron.core.models.gpt")
    return {"version": core.__version__, "detail": "imported with its models"}


def vllm() -> Answer:
    """Imports vLLM's engine class and asks for the platform that it would run on."""
    engine = importlib.import_module("vllm")
    platform = importlib.import_module("vllm.platforms").current_platform
    if not platform.device_type:
        raise RuntimeError("vLLM finds no platform to run on")
    if platform.device_type == "cpu":
        platform.import_kernels()
        operations = importlib.import_module("torch").ops._C
        if not hasattr(operations, "init_cpu_memory_env"):  # the kernels load without it and fail at the first request
            raise RuntimeError("vLLM's kernels miss libnuma.so.1; apt-get install libnuma1")
    return {"detail": f"{engine.LLM.__name__} imported, platform {platform.device_type}"}


def imported(*modules: str) -> Callable[[], Answer]:
    """An attempt that imports the modules and no more."""

    def attempt() -> Answer:
        for module in modules:
            importlib.import_module(module)
        return {"detail": "imported"}

    return attempt


ATTEMPTS: dict[str, Callable[[], Answer]] = {
    "torch": torch_product,
    "gloo": gloo_group,
    "megatron": megatron,
    "vllm": vllm,
    "ray": imported("ray"),
    "modelopt": imported("modelopt.torch.quantization"),
    "transformer_engine": imported("transformer_engine.pytorch"),
    "apex": imported("apex.optimizers", "amp_C"),  # amp_C: the fused kernels; a build without them is of no use
}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answers.write(json.dumps(ATTEMPTS[sys.argv[1]]()) + "\n")
    answers.flush()
