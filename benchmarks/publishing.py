"""Seconds and bytes of one publish into vLLM, beside a plain copy of the same bytes in memory in the same run.

    python benchmarks/publishing.py [--scale tiny|half|both] [--repeat N]

A trainer of one process and an engine of one rank, each with one thread, on one host; `half` has the sizes of
Qwen2.5-0.5B in bfloat16. Copies and publishes take turns. What vLLM itself does with each module that has arrived
(preparing it for its kernels, copying into the tensors that they hold) is told apart: it is the same whoever brings
the weights. Nothing is asserted: the figures depend on the host.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

SCALES = {
    "tiny": ("model=tiny", "trainer.dtype=fp32"),
    "half": ("model=qwen2.5-0.5b", "trainer.dtype=bf16", "rollout.publish_bucket_mb=160"),
}
COMMON = ("layout=tp1", "trainer.n_gpus_per_node=1", "rollout.max_model_len=512", "rollout.max_num_seqs=4")
DEADLINE_S = 1800


def serve(where: Any, run: Any, address: str, key: bytes) -> None:
    """The trainer's process: meets, sends, copies."""
    import torch

    from hpt_megatron.mcore.worker import MegatronWorker

    worker = MegatronWorker(run, train=False)
    worker.start(where)
    with Client(address, authkey=key) as driver, torch.no_grad():
        while True:
            what, argument = driver.recv()
            if what == "stop":
                worker.leave()
                return
            driver.send(ACTS[what](worker, argument))


def digests_of(worker: Any, layout: Any) -> dict[str, str]:
    """Of what it holds, as the engine cuts it."""
    from hpt_megatron.weights.publish.digests import digests

    return digests(layout, worker.weights())


def copy(worker: Any, size: int) -> float:
    """Seconds of a copy of so many bytes, pages touched before."""
    import torch

    source = torch.ones(size, dtype=torch.uint8)
    target = torch.zeros(size, dtype=torch.uint8)
    started = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - started


ACTS = {
    "meet": lambda worker, session: worker.meet(session),
    "send": lambda worker, which: worker.send(which),
    "copy": copy,
    "digests": digests_of,
}


class Trainer:
    """The process, called by name."""

    def __init__(self, peer: Connection) -> None:
        self.peer = peer

    def call(self, what: str, argument: Any) -> Any:
        self.peer.send((what, argument))
        return self.peer.recv()

    def meet(self, session: Any) -> None:
        self.call("meet", session)

    def send(self, which: str) -> list[dict[int, int]]:
        return [self.call("send", which)]

    def digests(self, layout: Any) -> dict[str, str]:
        return self.call("digests", layout)


def measure(scale: str, repeat: int, folder: Path) -> dict[str, Any]:
    """One scale."""
    from hpt_megatron.config.load import load_run
    from hpt_megatron.embedded.folder import write_tiny
    from hpt_megatron.embedded.random_folder import write_random
    from hpt_megatron.mcore.local_processes import run as run_processes
    from hpt_megatron.rollout.engine.vllm_engine import VllmEngine
    from hpt_megatron.rollout.engine.weight_sync import WeightSync

    run = load_run([*SCALES[scale], *COMMON])
    where = write_tiny(folder / scale) if scale == "tiny" else write_random(run.model, folder / scale)
    run = load_run([*SCALES[scale], *COMMON, f"model.path={where}"])
    address, key = str(folder / f"{scale}.socket"), os.urandom(16)
    with Listener(address, authkey=key) as listener:
        arguments = (1, serve, run, address, key)
        thread = threading.Thread(target=run_processes, args=arguments, kwargs={"deadline_s": DEADLINE_S}, daemon=True)
        thread.start()
        trainer = Trainer(listener.accept())
    engine = VllmEngine(run, str(where), skip_tokenizer_init=scale != "tiny", load_format="dummy")
    engine.start()
    sync = WeightSync(run, trainer, [engine])
    size = sync.publish("0").bytes
    rows = []
    for number in range(repeat):
        copied = trainer.call("copy", size)
        done = sync.publish(str(number + 1))
        (inside,) = engine.ask("hpt_seconds")
        rows.append((copied, done.seconds, inside["write"], inside["reload"]))
    sync.verify()  # fast and wrong would be no figure
    sync.close()
    trainer.peer.send(("stop", None))
    thread.join(30)
    engine.stop()
    names = ("copy", "publish", "write", "reload")
    return {"bytes": size, **dict(zip(names, map(statistics.median, zip(*rows, strict=True)), strict=True))}


def main() -> None:
    """Prints a table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--scale", choices=[*SCALES, "both"], default="both")
    options.add_argument("--repeat", type=int, default=5)
    asked = options.parse_args()
    os.environ.update(OMP_NUM_THREADS="1")
    print(
        f"{'':<6}{'bytes':>15}{'copy s':>10}{'publish s':>11}{'write s':>10}{'reload s':>10}"
        f"{'(publish - reload) / copy':>27}"
    )
    for scale in SCALES if asked.scale == "both" else (asked.scale,):
        with tempfile.TemporaryDirectory() as folder:
            told = measure(scale, asked.repeat, Path(folder))
        apart = (told["publish"] - told["reload"]) / told["copy"]
        print(
            f"{scale:<6}{told['bytes']:>15,}{told['copy']:>10.4f}{told['publish']:>11.4f}{told['write']:>10.4f}{told['reload']:>10.4f}"
            f"{apart:>27.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
