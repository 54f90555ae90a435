"""The planner's bytes beside real workers: what torch keeps alive, and what becomes resident in a process.

The predicted peak of an update is within 15 % of the measured increment over a process that has only imported the
packages; benchmarks/planner.py has the same for half a billion parameters. Not covered: images, bf16, and GPUs.
"""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import run as run_processes
from torch.profiler import ProfilerActivity, profile

from hpt_megatron.config.load import load
from hpt_megatron.embedded.folder import write_tiny
from hpt_megatron.mcore.worker import MegatronWorker
from hpt_megatron.parity.rows import components
from hpt_megatron.planning.activations import Setting, layer_kept, tower_kept
from hpt_megatron.planning.devices import this_host
from hpt_megatron.planning.memory import phases
from hpt_megatron.planning.workload import Workload
from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows

pytestmark = pytest.mark.slow


def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    words = [line.split() for line in lines if line.startswith(("RssAnon", "RssShmem"))]
    return sum(int(each[1]) * 1024 for each in words)


def pack_of(length):
    """Four rows of one length that fill a pack."""
    generator = torch.Generator().manual_seed(0)
    rows = Rows(
        torch.full((4,), length // 4),
        {"ids": torch.randint(0, 400, (length,), generator=generator)},
        {"prompt": torch.arange(4)},
    )
    weight = torch.where(rows.position > 0, 1.0 / length, 0.0)
    columns = {f"weight_{name}": weight for name in ("rl", "sft", "entropy", "kl")}
    columns |= {name: torch.full((length,), -7.0) for name in ("old_logp", "ref_logp", "credit")}
    return Batch.of_text(rows.with_tokens(**columns, trained=rows.position > 0))


def pictures_of(run, count):
    """So many rows, each with an image of 8 x 8 patches and 24 tokens of text."""
    generator, vision, holder = torch.Generator().manual_seed(0), run.model.vision, run.model.image_token_id
    length = 16 + 24
    ids = torch.randint(0, 400, (count, length), generator=generator)
    ids[:, 2:18] = holder
    weight = torch.where(ids != holder, 1.0 / ids.numel(), 0.0)
    weight[:, 0] = 0.0
    columns = {f"weight_{name}": weight.flatten() for name in ("rl", "sft", "entropy", "kl")}
    columns |= {name: torch.full((ids.numel(),), -7.0) for name in ("old_logp", "ref_logp", "credit")}
    rows = Rows(torch.full((count,), length), {"ids": ids.flatten()}, {"prompt": torch.arange(count)})
    channels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    patches = torch.randn(64 * count, channels, generator=generator)
    images = Images(torch.tensor([[1, 8, 8]] * count), patches, torch.zeros(count))
    shown, counts = torch.arange(count), torch.ones(count, dtype=torch.int64)
    return Batch(rows.with_tokens(**columns, trained=weight.flatten() != 0), images, shown, counts)


def most_resident(where, run, length):
    """What a worker gains at most over its imports, in log-probs and two updates."""
    imported, seen, done = resident(), [resident()], threading.Event()

    def look():
        while not done.is_set():
            seen.append(resident())
            time.sleep(0.002)

    worker = MegatronWorker(run)
    worker.start(where)
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    batch = pack_of(length)
    worker.log_probs([batch])
    skipped = [worker.update([batch], components("clip")).skipped for _ in range(2)]
    done.set()
    thread.join()
    return max(seen) - imported, skipped


def most_alive(where, runs, length, images=0):
    """Bytes of tensors alive at most while gradients of a pack are computed, of one run after the other."""
    found = []
    for run in runs:
        worker = MegatronWorker(run)
        worker.start(where)
        batch = pictures_of(run, images) if images else pack_of(length)
        worker.accumulate([batch], components("clip"))
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            worker.accumulate([batch], components("clip"))
        events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
        alive = most = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            alive += event.nbytes()
            most = max(most, alive)
        found.append(most)
        worker.stop()
    return found


def of_tiny(length, tp, *words):
    """A run of the tiny model whose packs have so many tokens."""
    sizes = (f"layout=tp{tp}", f"trainer.n_gpus_per_node={tp}", f"trainer.ppo_max_token_len_per_gpu={length}")
    return load(["experiment=tiny-hpt", *sizes, "trainer.max_grad_norm=null", *words]).run


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("length", [512, 2048])
def test_an_update_takes_the_memory_that_is_planned(tmp_path, tp, length):
    write_tiny(tmp_path / "tiny")
    run = of_tiny(length, tp, f"model.path={tmp_path / 'tiny'}")
    told = run_processes(tp, most_resident, run, length)
    assert all(skipped == ["", ""] for _, skipped in told)
    work = replace(Workload.of(run), packs=1, rank_patches=0)
    update = next(phase for phase in phases(run, this_host(tp), work, placed="trainer") if phase.name == "update")
    assert update.bytes == pytest.approx(max(size for size, _ in told), rel=0.15)


@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_a_layer_keeps_alive_what_is_planned(recompute):
    """Two layers more, and twice a layer's activations more."""
    words = (f"trainer.recompute={recompute}", "trainer.overlap_communication=false")
    runs = [of_tiny(2048, 1, *words, f"model.num_hidden_layers={layers}") for layers in (2, 4)]
    ((two, four),) = run_processes(1, most_alive, runs, 2048)
    setting = Setting(layout=runs[0].layout, element=4, fused=False, recompute=recompute, tokens=2048)
    assert 2 * layer_kept(runs[0].model, setting) == pytest.approx(four - two, rel=0.01)


@pytest.mark.parametrize("wide", [64, 256])
def test_the_tower_keeps_alive_what_is_planned(wide):
    """Four blocks more, and four blocks' activations more; the tower is most of what this model keeps."""
    words = ("trainer.overlap_communication=false", "model.num_hidden_layers=1", f"model.vision.hidden_size={wide}")
    runs = [of_tiny(2048, 1, *words, f"model.vision.depth={depth}") for depth in (4, 8)]
    ((four, eight),) = run_processes(1, most_alive, runs, 2048, 48)
    setting = Setting(
        layout=runs[0].layout, element=4, fused=False, recompute="selective", tokens=2048, patches=48 * 64
    )
    planned = [tower_kept(run.model.vision, setting) for run in runs]
    assert planned[1] - planned[0] == pytest.approx(eight - four, rel=0.02)
