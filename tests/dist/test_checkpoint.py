"""A checkpoint saved by one set of processes and loaded by another goes on as if nothing had happened.

Real processes on gloo, dropout on (so that random states count). The loading processes are fresh, start from another
seed and hold other weights until they load. Not covered: several nodes, a file system that fails half-way.
"""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run
from tiny_gpt import Case, Trainer, load_and_train, train, train_and_save, train_while_saving
from torch.distributed.checkpoint import Metadata
from torch.distributed.checkpoint.planner import WriteItemType

from hpt_megatron.errors import UserError
from hpt_megatron.mcore.saved import checkpoint
from hpt_megatron.weights.execute.description import MetadataUnpickler
from hpt_megatron.mcore.initialize import Rendezvous, initialize

pytestmark = pytest.mark.slow

STEPS, MORE = 3, 5
CASES = {
    "tp2": (2, {"tp": 2}),
    "dp2": (2, {}),
    "cp2": (2, {"cp": 2}),
    "pp2": (2, {"pp": 2}),
    "dp2-several-buckets": (2, {"overlap": True, "recompute": True}),
    "pp2-vpp2": (2, {"pp": 2, "vpp": 2, "layers": 4}),
}
OTHER_LAYOUTS = {"dp2": (2, {}), "one": (1, {}), "pp2-cp2": (4, {"pp": 2, "cp": 2})}
PRECISIONS = {"fp32": False, "bf16": True}

Saved = Callable[[int, Case], tuple[Path, list[tuple[float, float]]]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Trains and saves once per case; answers the folder and what the undisturbed run saw."""
    known: dict[Case, tuple[Path, list[tuple[float, float]]]] = {}

    def make(processes: int, case: Case) -> tuple[Path, list[tuple[float, float]]]:
        if case not in known:
            folder = tmp_path_factory.mktemp("checkpoint")
            known[case] = folder, run(processes, train_and_save, case, str(folder), STEPS, MORE)[0]
        return known[case]

    return make


@pytest.mark.parametrize("sharding", checkpoint.SHARDINGS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_fresh_processes_go_on_bit_for_bit(saved: Saved, name: str, precision: str, sharding: str) -> None:
    """The next five losses and gradient norms, with both ways to lay the optimizer out."""
    processes, sizes = CASES[name]
    case = Case(dropout=0.1, bf16=PRECISIONS[precision], **sizes)
    folder, undisturbed = saved(processes, case)
    assert run(processes, load_and_train, case, str(folder / sharding), MORE)[0] == undisturbed[STEPS:]


@pytest.mark.parametrize("name", ["tp2", "dp2-several-buckets"])
def test_one_that_is_written_while_training_goes_on_is_of_the_step_where_it_began(
    saved: Saved, name: str, tmp_path: Path
) -> None:
    """Five steps change every weight and moment before the save ends; whoever loads it sees none of them."""
    processes, sizes = CASES[name]
    case = Case(dropout=0.1, **sizes)
    undisturbed = saved(processes, case)[1]
    assert run(processes, train_while_saving, case, str(tmp_path / "behind"), STEPS, MORE)[0] == undisturbed
    assert run(processes, load_and_train, case, str(tmp_path / "behind"), MORE)[0] == undisturbed[STEPS:]


def test_saving_changes_nothing_in_the_run_that_saves(saved: Saved) -> None:
    """Bit for bit, while parameters are still under way to the other ranks when the save begins."""
    processes, sizes = CASES["dp2-several-buckets"]
    case = Case(dropout=0.1, **sizes)
    assert run(processes, train, case, STEPS + MORE)[0] == saved(processes, case)[1]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("processes", "sizes"), OTHER_LAYOUTS.values(), ids=OTHER_LAYOUTS)
def test_another_layout_goes_on_with_the_same_losses(
    saved: Saved, processes: int, sizes: dict[str, int], precision: str
) -> None:
    """Saved at TP 2 in the format that can be cut anew. Without dropout, since other layouts draw other masks.

    fp32 differs by the order of sums. In bf16 the weights and moments are equal and only rounding differs: 2^-9.
    """
    bf16 = PRECISIONS[precision]
    folder, undisturbed = saved(2, Case(tp=2, bf16=bf16))
    there = run(processes, load_and_train, Case(bf16=bf16, **sizes), str(folder / "fully_reshardable"), MORE)[0]
    for (loss, _), (expected, _) in zip(there, undisturbed[STEPS:], strict=True):
        assert loss == pytest.approx(expected, rel=2**-9 if bf16 else 1e-6)


def test_the_cheap_format_refuses_another_tensor_parallel_size(saved: Saved) -> None:
    """One line that says how to mend it, not an assertion from the inside of the optimizer."""
    folder, _ = saved(2, Case(tp=2))
    with pytest.raises(UserError, match="save it with sharding=fully_reshardable"):
        run(1, load_and_train, Case(), str(folder / "dp_reshardable"), 1)


def test_the_cheap_format_loads_under_another_data_parallel_size(saved: Saved) -> None:
    """Saved at DP 2, loaded by one process; equal but for the order of sums."""
    folder, undisturbed = saved(2, Case())
    there = run(1, load_and_train, Case(), str(folder / "dp_reshardable"), MORE)[0]
    for (loss, _), (expected, _) in zip(there, undisturbed[STEPS:], strict=True):
        assert loss == pytest.approx(expected, rel=1e-6)


def test_the_checkpoint_of_another_model_is_refused_in_one_line(saved: Saved) -> None:
    """Which layers it lacks."""
    folder, _ = saved(2, Case(tp=2))
    with pytest.raises(UserError, match=r".*fully_reshardable: .*; was the same model saved\?"):
        run(1, load_and_train, Case(layers=4), str(folder / "fully_reshardable"), 1)


def weights_alone(where: Rendezvous, folder: str) -> tuple[dict[str, Any], bool]:
    """Loads a model without its optimizer; answers `extra`, and whether a weight is the trained one."""
    initialize(where=where)
    trainer = Trainer(Case())
    before = trainer.models[0].module.output_layer.weight.detach().clone()
    extra = checkpoint.load(folder, trainer.models)
    return extra, bool(torch.equal(before, trainer.models[0].module.output_layer.weight))


def test_a_model_loads_without_its_optimizer(saved: Saved) -> None:
    """For evaluation and export, which have none."""
    folder, _ = saved(2, Case(tp=2))
    assert run(1, weights_alone, str(folder / "dp_reshardable"))[0] == ({"step": STEPS}, False)


class Touch:
    """What a forged file would hold: unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (self.path,)


@pytest.mark.parametrize("name", [".metadata", "common.pt"])
def test_a_forged_file_is_refused_and_not_executed(saved: Saved, tmp_path: Path, name: str) -> None:
    """The pickled files of a checkpoint that stand alone; objects inside the data files have a test of their own."""
    folder, _ = saved(2, Case(tp=2))
    forged = tmp_path / "forged"
    forged.mkdir()
    for file in (folder / "fully_reshardable").iterdir():
        (forged / file.name).write_bytes(file.read_bytes())
    with (forged / name).open("wb") as file:
        (torch.save if name == "common.pt" else pickle.dump)(Touch(tmp_path / "touched"), file)
    with pytest.raises(UserError, match="mknod|more than plain values"):
        run(2, load_and_train, Case(tp=2), str(forged), 1)
    assert not (tmp_path / "touched").exists()


class Attribute:
    """Pickles as `getattr(owner, name)`: how early releases of Python 3.11 write a member of an enum."""

    def __init__(self, owner: Any, name: str) -> None:
        self.parts = owner, name

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, self.parts


def test_metadata_written_by_an_early_python_is_read_and_nothing_else_gets_by_with_it() -> None:
    """A member of an enum, by its name alone."""
    member = pickle.dumps(Attribute(WriteItemType, "SHARD"))
    assert MetadataUnpickler(io.BytesIO(member)).load() is WriteItemType.SHARD
    for owner, name in ((WriteItemType, "__class__"), (WriteItemType, "mro"), (Metadata, "__init__")):
        with pytest.raises(UserError, match=name):
            MetadataUnpickler(io.BytesIO(pickle.dumps(Attribute(owner, name)))).load()


def save_forged_object(where: Rendezvous, folder: str, touched: str) -> None:
    """Saves a checkpoint whose optimizer holds, among its objects, one that acts when it is unpickled."""
    initialize(where=where)
    trainer = Trainer(Case())
    trainer.step(0)
    for group in trainer.optimizer.chained_optimizers[0].optimizer.param_groups:
        group["forged"] = Touch(Path(touched))
    checkpoint.save(folder, trainer.models, trainer.optimizer)


def test_a_forged_object_inside_a_data_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    """Parameter groups travel as pickled objects in the cheap format."""
    run(1, save_forged_object, str(tmp_path / "forged"), str(tmp_path / "touched"))
    assert not (tmp_path / "touched").exists()
    with pytest.raises(UserError, match="mknod|more than plain values"):
        run(1, load_and_train, Case(), str(tmp_path / "forged"), 1)
    assert not (tmp_path / "touched").exists()


def children_while_saving(where: Rendezvous, folder: str) -> list[str]:
    """Every way in which Python starts a process, as an audit hook saw them during a save."""
    import sys

    initialize(where=where)
    trainer = Trainer(Case())
    trainer.step(0)
    started: list[str] = []
    events = ("os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen", "os.exec")
    sys.addaudithook(lambda event, _arguments: started.append(event) if event in events else None)
    checkpoint.save(folder, trainer.models, trainer.optimizer)
    return started


def test_saving_starts_no_process(tmp_path: Path) -> None:
    """Other threads live in the process later on, and a fork beside them can hang."""
    assert run(1, children_while_saving, str(tmp_path / "checkpoint"))[0] == []
    assert json.loads((tmp_path / "checkpoint" / "metadata.json").read_text())["sharded_backend"] == "torch_dist"


def test_a_folder_that_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    """Half-written ones look the same: the file that is written last is missing."""
    with pytest.raises(UserError, match=r"not a complete checkpoint; name a folder that holds `metadata.json`"):
        checkpoint.load(tmp_path, [])
    with pytest.raises(UserError, match="no such sharding: flat; one of dp_reshardable, fully_reshardable"):
        checkpoint.save(tmp_path, [], sharding="flat")
