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
from hpt_megatron.planning.devices import Asked, read_devices, this_host
from hpt_megatron.planning.memory import engine_of, phases
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


def row(what: str, published: str, told: str, difference: str) -> None:
    """One line of the table."""
    print(f"{what:<62}{published:>22}{told:>16}{difference:>14}")


def show_published() -> None:
    """Layouts and figures that others have published, with what is predicted for them."""
    row("", "published", "predicted", "difference")
    for name, total, over_8 in (("3b", 68, 28), ("7b", 149, 62), ("32b", 602, 251), ("72b", 1321, 551)):
        size = parameters(load([f"model=qwen2.5-vl-{name}"]).run.model)
        for what, published, each in ((f"{name}: 18 bytes a parameter, GB", total, 18), ("", over_8, 6 + 12 / 8)):
            told = each * size / 1e9
            row(what or f"{name}: optimizer over 8, GB", f"{published}", f"{told:,.0f}", f"{told / published - 1:+.1%}")
    show_layouts()
    show_publishing()
    show_shares()


SHORT = ("trainer.ppo_max_token_len_per_gpu=4096", "data.max_prompt_length=1024", "data.max_response_length=3072")
SHORT = (*SHORT, "data.max_prefix_len=3072", "rollout.max_model_len=4096", "trainer.ppo_mini_batch_size=64")


def show_layouts() -> None:
    """Published layouts of the four sizes, in packs of 4,096 tokens, recompute=full: does the trainer fit?"""
    cases = (
        ("3b on 1 GPU", "3b", "tp1", "h100:1", ()),
        ("7b tp 2 on 2 GPUs", "7b", "tp2", "h100:2", ()),
        ("7b tp 2, tower frozen, on 2 GPUs (72 GiB a GPU)", "7b", "tp2", "h100:2", ("trainer.freeze=[visual.*]",)),
        ("32b tp 8 pp 2 on 16 GPUs", "32b", "tp8-pp2", "h100:16", ()),
        ("72b tp 8 pp 4 on 32 GPUs", "72b", "tp8-pp4", "h100:32", ()),
    )
    for what, name, layout, devices, words in cases:
        given = (f"model=qwen2.5-vl-{name}", f"layout={layout}", "trainer.recompute=full", *SHORT, *words)
        run, asked, work = planned(*given, devices=devices)
        update = next(phase for phase in phases(run, asked.device, work, placed="trainer") if phase.name == "update")
        published, told = ("72 GiB" if "72 GiB" in what else "runs on 80 GB"), update.bytes / GIB
        difference = f"{told / 72 - 1:+.1%}" if "72 GiB" in what else f"{'fits' if told < 74.5 else 'does not'}"
        row(what, published, f"{told:.1f} GiB", difference)
    run, asked, _ = planned("experiment=hpt-72b", devices="h100:64")
    held = engine_of(run, asked.device).weights / 1e9
    row("72b: weights of one engine rank at tp 8, GB", "18.4", f"{held:.1f}", f"{held / 18.4 - 1:+.1%}")
    tower = stages_of(run.model, run.layout)[0].vision.held * 2 / 1e9
    row("72b: the same without the tower, which every rank has whole", "18.4", f"{held - tower:.1f}", "")


def show_publishing() -> None:
    """Seconds of publishing: full transfers of other systems, and what the links allow."""
    cases = (("7b", "5.5 to 6.0 s", 5.5), ("32b", "17.7 s", 17.7), ("72b", "28.5 to 29.1 s", 28.5))
    for name, published, least in cases:
        count = {"7b": "h100:8", "32b": "h100:32", "72b": "h100:64"}[name]
        run, asked, _ = planned(f"experiment=hpt-{name}", devices=count)
        told = publishing(run, asked)["seconds_in_turn"]
        row(
            f"{name}: weights to the engines, NCCL, FSDP to SGLang",
            published,
            f"{told:.2f} s",
            f"1/{least / told:,.0f}",
        )


def show_shares() -> None:
    """Ratios that do not depend on a benchmark's own settings."""
    used = {}
    for recompute in ("none", "full"):
        given = ("experiment=hpt-32b", f"trainer.recompute={recompute}")
        run, asked, work = planned(*given, devices="h100:32")
        used[recompute] = step_time(run, asked, work).utilization(asked.device)
    lost = 1 - used["full"] / used["none"]
    row("32b: share of the peak lost to recompute=full", "about 30 %", f"{lost:.0%}", f"{lost / 0.3 - 1:+.0%}")
    row("32b: share of the peak in an update (a 30B of experts there)", "31 to 40 %", f"{used['full']:.0%}", "")
    for name, count in (("7b", "h100:8"), ("32b", "h100:32"), ("72b", "h100:64")):
        run, asked, work = planned(f"experiment=hpt-{name}", devices=count)
        step = step_time(run, asked, work)
        share = step.of("rollout") / step.seconds
        row(f"{name}: share of a step that is sampling", "about 80 %", f"{share:.0%}", f"{share / 0.8 - 1:+.0%}")


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
