"""Options of a step that must not change its numbers: the optimizer's place, and how rows are counted into packs.

Real processes, the small model. Not covered: memory of a device, which needs one.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run
from small_vl import Layout, folder_of, held, outcome_of, reference, small_batch, started
from vl_state import restore_and_look, take, unequal

from hpt_megatron.config.run import RunConfig
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.layout.micro_batches import split
from hpt_megatron.mcore.step.offload import moments
from hpt_megatron.parity.compare import compare
from hpt_megatron.protocol.batch import Batch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's checkpoint."""
    return folder_of(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def batch(folder: Path) -> Batch:
    """Its rows."""
    return small_batch(Layout().run(folder))


def steps_out_of_memory(where: Rendezvous, config: RunConfig, batch: Batch, folder: str) -> Any:
    """Steps, a save, all of it moved out and back, and a step more; and the bytes of moments in between."""
    worker = started(where, config)
    there = []

    def weigh() -> None:
        there.append(sum(tensor.untyped_storage().nbytes() for tensor in moments(worker.optimizer)))

    worker.offload()
    worker.onload()
    weigh()
    for _ in range(3):
        seen = take(worker, batch, 1)
        weigh()
    after = held(worker)
    worker.save(folder, last=True)
    worker.offload()
    weigh()
    worker.onload()
    weigh()
    seen += take(worker, batch, 1)
    return seen, after, held(worker), there


@pytest.mark.parametrize(
    ("layout", "dtype"), [(Layout(dp=2), "fp32"), (Layout(tp=2, dp=2), "bf16")], ids=["dp2-fp32", "tp2-dp2-bf16"]
)
def test_an_optimizer_in_host_memory_takes_the_same_steps(
    folder: Path, batch: Batch, tmp_path: Path, layout: Layout, dtype: str
) -> None:
    """Bit for bit, saved and restored too; between steps nothing of it is in the device's memory but shared views."""
    here = layout.run(folder, f"trainer.dtype={dtype}")
    out = replace(here, trainer=replace(here.trainer, optimizer_offload=True))
    stayed = run(layout.processes, steps_out_of_memory, here, batch, str(tmp_path / "here"))
    moved = run(layout.processes, steps_out_of_memory, out, batch, str(tmp_path / "out"))
    for ours, theirs in zip(moved, stayed, strict=True):
        assert ours[0] == theirs[0]
        assert not unequal(ours[1], theirs[1])
        assert not unequal(ours[2], theirs[2])
        assert ours[3] == [0] * 6
        assert min(theirs[3][1:4]) > 0
    seen = run(layout.processes, restore_and_look, out, batch, str(tmp_path / "here"), 1)
    again = run(layout.processes, restore_and_look, here, batch, str(tmp_path / "out"), 1)
    for ours, theirs, undisturbed in zip(seen, again, stayed, strict=True):
        assert ours.steps == theirs.steps == undisturbed[0][-1:]
        assert not unequal(ours.after, undisturbed[2])
        assert not unequal(theirs.after, undisturbed[2])


LAYOUTS = [Layout(dp=2), Layout(pp=2, vpp=2), Layout(cp=2, dp=2)]


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_micro_batches_by_count_change_no_gradient(folder: Path, batch: Batch, layout: Layout, size: int) -> None:
    """Against transformers; with 9 rows some micro-batches are smaller than others, and some hold no row."""
    config = layout.run(folder)
    config = replace(
        config, trainer=replace(config.trainer, use_dynamic_bsz=False, ppo_micro_batch_size=size, max_grad_norm=None)
    )
    ours, _ = outcome_of(config, batch)
    assert not [one for one in compare(ours, reference(config, batch)) if one.relative > 1e-5]


@pytest.mark.parametrize("counted", [False, True], ids=["by tokens", "by count"])
@pytest.mark.parametrize("layout", [Layout(dp=4), Layout(tp=2, dp=2, pp=2)], ids=lambda layout: layout.name)
def test_ranks_without_a_row_run_empty_packs(folder: Path, batch: Batch, layout: Layout, counted: bool) -> None:
    """One row with an image for several data-parallel ranks: the others take part in every collective and add 0."""
    config = layout.run(folder)
    config = replace(config, trainer=replace(config.trainer, use_dynamic_bsz=not counted))
    one = batch.select((batch.counts > 0).nonzero()[:1, 0])
    assert sorted(rows_held for rank in split(one, config) for rows_held in map(rows_of, rank))[-2:] == [0, 1]
    ours, _ = outcome_of(config, one)
    assert not [found for found in compare(ours, reference(config, one)) if found.relative > 1e-5]


def rows_of(part: Batch) -> int:
    """How many rows a micro-batch has."""
    return part.rows.num_rows
