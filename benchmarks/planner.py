"""What the planner predicts, beside what is measured here and beside what others have published.

    python benchmarks/planner.py                        predictions beside published figures; seconds
    python benchmarks/planner.py --memory tiny|half     beside the resident memory of real workers on this host

Measured is the increment of RssAnon + RssShmem of each worker process, sampled every 2 ms, over what it had when it had
only imported the packages: after `start`, at the most during `log_probs`, and at the most during two updates. `half` is
the geometry of Qwen2.5-0.5B in float32; it needs 14 GB and ten minutes. Nothing is asserted.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from hpt_megatron.config.geometry import parameters
from hpt_megatron.config.load import load
from hpt_megatron.config.run import RunConfig
from hpt_megatron.embedded.random_folder import write_random
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.mcore.local_processes import run as run_processes
from hpt_megatron.mcore.worker import MegatronWorker
from hpt_megatron.parity.rows import components
from hpt_megatron.planning.answer import publishing
from hpt_megatron.planning.devices import LINK_RATES, Asked, read_devices, this_host
from hpt_megatron.planning.engine import engine_of
from hpt_megatron.planning.memory import phases
from hpt_megatron.planning.parameters import stages_of
from hpt_megatron.planning.step_time import step_time
from hpt_megatron.planning.workload import Workload
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.rows import Rows

MIB, GIB = 2**20, 2**30
MEASURED = {"tiny": ("tiny", (512, 2048)), "half": ("qwen2.5-0.5b", (256, 768))}
ROWS = 4


def resident() -> int:
    """Bytes of this process that no file can take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    words = [line.split() for line in lines if line.startswith(("RssAnon", "RssShmem"))]
    return sum(int(each[1]) * 1024 for each in words)


class Most:
    """The most resident memory while a block runs, seen by a thread that looks every 2 ms."""

    def __init__(self) -> None:
        self.bytes = resident()
        self.running = True

    def look(self) -> None:
        """Until the block ends."""
        while self.running:
            self.bytes = max(self.bytes, resident())
            time.sleep(0.002)


@contextmanager
def watched() -> Iterator[Most]:
    """Watches a block."""
    most = Most()
    thread = threading.Thread(target=most.look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        most.running = False
        thread.join()


def full_pack(run: RunConfig, length: int) -> Batch:
    """One pack of equal rows with random ids, columns and weights."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.full((ROWS,), length // ROWS)
    ids = torch.randint(0, 400, (length,), generator=generator)
    rows = Rows(lengths, {"ids": ids}, {"prompt": torch.arange(ROWS)})
    weight = torch.where(rows.position > 0, torch.rand(length, generator=generator) / length, 0.0)
    columns = {f"weight_{name}": weight for name in ("rl", "sft", "entropy", "kl")}
    columns |= {name: torch.full((length,), -7.0) for name in ("old_logp", "ref_logp", "credit")}
    return Batch.of_text(rows.with_tokens(**columns, trained=rows.position > 0))


def worker_memory(where: Rendezvous, run: RunConfig, length: int) -> dict[str, int]:
    """One process of the trainer: what it gains by starting, at most in log-probs, at most in two updates."""
    imported = resident()
    worker = MegatronWorker(run)
    worker.start(where)
    gained = {"start": resident() - imported}
    batch = full_pack(run, length)
    with watched() as most:
        worker.log_probs([batch])
    gained["log-probs"] = most.bytes - imported
    with watched() as most:
        reports = [worker.update([batch], components("clip")) for _ in range(2)]
    if any(report.skipped for report in reports):
        raise RuntimeError(f"a step was skipped: {reports}")
    gained["update"] = most.bytes - imported
    return gained


def measured_run(model: str, tp: int, length: int, folder: str) -> RunConfig:
    """A run whose packs have so many tokens."""
    words = [f"model={model}", f"layout=tp{tp}", "layout.vocab_multiple=1", f"model.path={folder}"]
    words += ["trainer.dtype=fp32", f"trainer.n_gpus_per_node={tp}", "trainer.max_grad_norm=null"]
    words += [f"trainer.ppo_max_token_len_per_gpu={length}", "data.max_prompt_length=32", "data.max_prefix_len=32"]
    return load([*words, "data.max_response_length=32", "rollout.max_model_len=512"]).run


def predicted(run: RunConfig) -> dict[str, int]:
    """The same three of one process; before the first step there are no moments."""
    device, work = this_host(run.devices), replace(Workload.of(run), packs=1, rank_patches=0)
    found = {phase.name: phase for phase in phases(run, device, work, placed="trainer")}
    terms = {term.name: term.bytes for term in found["log-probs"].terms}
    start = sum(terms[name] for name in ("weights", "gradients, float32", "context and libraries"))
    forward = found["log-probs"].bytes - terms["moments, float32"]
    return {"start": start, "log-probs": forward, "update": found["update"].bytes}


def show_memory(size: str) -> None:
    """Measures one geometry and prints predictions beside it."""
    model, lengths = MEASURED[size]
    with tempfile.TemporaryDirectory() as folder:
        write_random(load([f"model={model}"]).run.model, folder)
        print(f"{'model':<14}{'tp':>3}{'pack':>6}  {'':<10}{'measured':>12}{'predicted':>12}{'difference':>12}")
        for tp in (1, 2):
            for length in lengths:
                run = measured_run(model, tp, length, folder)
                gained = run_processes(tp, worker_memory, run, length, deadline_s=900)
                for name, told in predicted(run).items():
                    real = max(each[name] for each in gained)
                    line = f"{model:<14}{tp:>3}{length:>6}  {name:<10}{real / MIB:>8,.1f} MiB{told / MIB:>8,.1f} MiB"
                    print(f"{line}{told / real - 1:>+12.1%}", flush=True)


def planned(*words: str, devices: str = "") -> tuple[RunConfig, Asked, Workload]:
    """A run on so many devices."""
    asked = read_devices(devices)
    run = load([*words, f"trainer.nnodes={asked.nodes}", f"trainer.n_gpus_per_node={asked.per_node}"]).run
    return run, asked, Workload.of(run)


def row(source: str, what: str, published: str, told: str, difference: str) -> None:
    """One line of the table."""
    print(f"{source:<16}{what:<58}{published:>16}{told:>12}{difference:>12}")


def show_published() -> None:
    """Layouts and figures that others have published, with what is predicted for them."""
    row("source", "", "there", "predicted", "difference")
    for name, total, over_8 in (("3b", 68, 28), ("7b", 149, 62), ("32b", 602, 251), ("72b", 1321, 551)):
        run, _, _ = planned(f"model=qwen2.5-vl-{name}", "layout=tp1", "layout.vocab_multiple=1", devices="h100:8")
        held = stages_of(run.model, run.layout)[0].all.held
        for what, there, each in (
            ("weights, gradients, optimizer, GB", total, 18),
            ("optimizer over 8, GB", over_8, 7.5),
        ):
            told = each * held / 1e9
            row("computed", f"{name}: {what}", f"{there}", f"{told:,.0f}", f"{told / there - 1:+.1%}")
    for name, nvlink, infiniband in (
        ("3b", 0.017, 0.15),
        ("7b", 0.037, 0.33),
        ("32b", 0.149, 1.34),
        ("72b", 0.326, 2.94),
    ):
        size = 2 * parameters(load([f"model=qwen2.5-vl-{name}"]).run.model) / 1e9
        for link, there in (("NVLink4", nvlink), ("InfiniBand 400 Gb/s", infiniband)):
            told = size / LINK_RATES[link]
            row(
                "computed",
                f"{name}: the model once over {link}, s",
                f"{there}",
                f"{told:.3f}",
                f"{told / there - 1:+.1%}",
            )
    show_layouts()
    show_publishing()
    show_shares()


SHORT = ("trainer.ppo_max_token_len_per_gpu=4096", "data.max_prompt_length=1024", "data.max_response_length=3072")
SHORT = (*SHORT, "data.max_prefix_len=3072", "rollout.max_model_len=4096", "trainer.ppo_mini_batch_size=64")


def show_layouts() -> None:
    """Published layouts of the four sizes, in packs of 4,096 tokens, recompute=full: does the trainer fit 80 GB?"""
    recipes = (("3b", "tp1", 1), ("7b", "tp2", 2), ("32b", "tp8-pp2", 16), ("72b", "tp8-pp4", 32))
    for name, layout, count in recipes:
        told = update_gib(name, layout, count)
        fits = "fits 80 GB" if told < 80e9 / GIB else "does not"
        row("Megatron-Bridge", f"{name}: recipe {layout}, update", f"{count} GPUs", f"{told:.1f} GiB", fits)
    told = update_gib("7b", "tp2", 2, "trainer.freeze=[visual.*]")
    row(
        "ms-swift",
        "7b: all parameters, tp 2, tower frozen (its default)",
        "2 x 72 GiB",
        f"{told:.1f} GiB",
        f"{told / 72 - 1:+.1%}",
    )
    run, asked, _ = planned("experiment=hpt-72b", devices="h100:64")
    held = engine_of(run, asked.device).weights / 1e9
    tower = stages_of(run.model, run.layout)[0].vision.held * 2 / 1e9
    row("computed", "72b: weights of an engine's rank at tp 8, GB", "18.4", f"{held:.1f}", f"{held / 18.4 - 1:+.1%}")
    without = held - tower * 7 / 8
    row("computed", "72b: the same, were the tower cut as well", "18.4", f"{without:.1f}", f"{without / 18.4 - 1:+.1%}")


def update_gib(name: str, layout: str, count: int, *words: str) -> float:
    """What a device needs in an update."""
    given = (f"model=qwen2.5-vl-{name}", f"layout={layout}", "trainer.recompute=full", *SHORT, *words)
    run, asked, work = planned(*given, devices=f"h100:{count}")
    found = phases(run, asked.device, work, placed="trainer")
    return next(phase.bytes for phase in found if phase.name == "update") / GIB


def show_publishing() -> None:
    """Seconds of publishing: full transfers of another system, and what the links allow."""
    cases = (("7b", "5.5 to 6.0 s", 5.5, 8), ("32b", "17.7 s", 17.7, 32), ("72b", "28.5 to 29.1 s", 28.5, 64))
    for name, there, least, count in cases:
        run, asked, _ = planned(f"experiment=hpt-{name}", devices=f"h100:{count}")
        told = publishing(run, asked)["seconds_in_turn"]
        row(
            "verl",
            f"{name}: full weights by NCCL, FSDP to SGLang, H100",
            there,
            f"{told:.2f} s",
            f"1/{least / told:,.0f}",
        )


def show_shares() -> None:
    """Ratios, which depend less on a benchmark's own settings."""
    used = {}
    for recompute in ("none", "full"):
        given = ("experiment=hpt-32b", f"trainer.recompute={recompute}")
        run, asked, work = planned(*given, devices="h100:32")
        used[recompute] = step_time(run, asked, work).utilization(asked.device)
    lost = 1 - used["full"] / used["none"]
    row("verl", "32b: share of the peak lost to recompute=full", "about 30 %", f"{lost:.0%}", f"{lost / 0.3 - 1:+.0%}")
    there = "40, 37, 31 %"
    row("verl", "32b on 32, recompute=full: share of the peak (Qwen3-30B there)", there, f"{used['full']:.0%}", "")
    for name, count in (("7b", 8), ("32b", 32), ("72b", 64)):
        run, asked, work = planned(f"experiment=hpt-{name}", devices=f"h100:{count}")
        step = step_time(run, asked, work)
        share = step.of("rollout") / step.seconds
        row(
            "OpenRLHF",
            f"{name}: share of a step that is sampling",
            "about 80 %",
            f"{share:.0%}",
            f"{share / 0.8 - 1:+.0%}",
        )


def main() -> None:
    """Prints one of the two tables."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--memory", choices=MEASURED, help="measure workers of this size")
    given = options.parse_args()
    if given.memory:
        show_memory(given.memory)
    else:
        show_published()


if __name__ == "__main__":
    main()
