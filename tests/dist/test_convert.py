"""Imported weights under layouts, and checkpoints of a run exported: what the trainer holds is what the folder holds.

Real processes, the small model with odd sizes. Not covered: sizes of real models; Transformer Engine's layers, which
need a GPU.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run
from small_vl import Layout, folder_of, held, merged, processes_of, reference, small_batch, started

from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import UserError
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.parity.compare import compare
from hpt_megatron.parity.rows import components
from hpt_megatron.parity.trained import put_together, say
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.weights.execute.comparing import inspect, verify
from hpt_megatron.weights.execute.exporting import export_checkpoint
from hpt_megatron.weights.execute.hub import HubFolder
from hpt_megatron.weights.execute.importing import import_folder

pytestmark = pytest.mark.slow

CLOSE = 1e-5
UNTIED = ("model.tie_word_embeddings=false",)
PADDED = ("model.vocab_size=497", "layout.vocab_multiple=12")  # at tp 4 a rank has padding alone
LAYOUTS = {
    "tp2 pp2": Layout(tp=2, pp=2),
    "tp4": Layout(tp=4),
    "tp2 pp2 vpp2 untied": Layout(tp=2, pp=2, vpp=2, also=UNTIED),
    "tp4 untied padded": Layout(tp=4, also=(*UNTIED, *PADDED)),
    "cp2 dp2": Layout(cp=2, dp=2),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the checkpoints of this file lie."""
    return tmp_path_factory.mktemp("models")


def source_of(models: Path, layout: Layout) -> Path:
    """The folder of the hub that a layout's model lies in."""
    return folder_of(models, *(text for text in layout.also if not text.startswith("layout.")))


def load_and_say(where: Rendezvous, config: RunConfig, folder: Path, batch: Batch) -> Any:
    """What one process says with weights from a checkpoint, and holds; then whether the step afterwards starts there."""
    worker = started(where, config)
    worker.restore(folder, weights_alone=True)
    weights = held(worker)
    said = say(worker, batch, components())
    return said, weights


@pytest.mark.parametrize("case", LAYOUTS)
def test_imported_weights_say_under_every_layout_what_transformers_says(models: Path, case: str) -> None:
    """Without `model.path`, so nothing else fills the model; logits, losses, gradients, and every weight bit for bit."""
    layout = LAYOUTS[case]
    source = source_of(models, layout)
    checkpoint = models / f"imported-{case}"
    import_folder(source, checkpoint)
    batch = small_batch(layout.run(source))
    config = layout.run("null")
    answers = run(processes_of(config), load_and_say, config, checkpoint, batch)
    ours = put_together([said for said, _ in answers], batch)
    assert not [one for one in compare(ours, reference(layout.run(source), batch)) if one.relative > CLOSE]
    weights, hub = merged([weights for _, weights in answers]), HubFolder(source)
    assert weights.keys() == hub.infos.keys()
    assert all(torch.equal(weights[name], hub.tensor(name)) for name in weights)


def train_and_save(where: Rendezvous, config: RunConfig, batch: Batch, folder: Path, last: bool) -> Any:
    """One step, then a checkpoint; the weights beside it."""
    worker = started(where, config)
    worker.update(worker.split(batch), components())
    worker.save(folder, last=last)
    return held(worker)


@pytest.mark.parametrize("last", [False, True], ids=["dp_reshardable", "fully_reshardable"])
@pytest.mark.parametrize("case", ["tp2 pp2 vpp2 untied", "tp4 untied padded"])
def test_the_export_of_a_runs_checkpoint_holds_the_runs_weights(models: Path, case: str, last: bool) -> None:
    """Bit for bit, without padding, under the older names; either sharding of the optimizer, which is not read."""
    layout = LAYOUTS[case]
    source = source_of(models, layout)
    config = layout.run(source)
    saved, out = models / f"saved-{case}-{last}", models / f"exported-{case}-{last}"
    weights = merged(run(processes_of(config), train_and_save, config, small_batch(config), saved, last))
    export_checkpoint(saved, out)
    exported = HubFolder(out)
    assert not exported.problems
    assert exported.infos.keys() == weights.keys() == HubFolder(source).infos.keys()
    assert all(torch.equal(weights[name], exported.tensor(name)) for name in weights)
    assert verify(saved, out)[1] == []
    assert verify(saved, source)[1] != []  # a step was taken
    told = inspect(saved)
    assert told["layout"] == {"tp": layout.tp, "pp": layout.pp, "vpp": layout.vpp, "cp": 1, "dp": 1}
    assert told["optimizer"]


def go_on(where: Rendezvous, config: RunConfig, folder: Path | None, batch: Batch) -> Any:
    """Weights after a step that starts from a checkpoint, or from the folder that the run names."""
    worker = started(where, config)
    if folder is not None:
        worker.restore(folder, weights_alone=True)
    worker.update(worker.split(batch), components())
    return held(worker)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_step_from_imported_weights_is_the_step_from_the_folder(models: Path, dtype: str) -> None:
    """The optimizer's own copies are filled too: both give the same weights bit for bit."""
    layout = Layout(tp=2, dp=2)
    source = source_of(models, layout)
    checkpoint = models / f"imported-for-{dtype}"
    import_folder(source, checkpoint)
    batch = small_batch(layout.run(source))
    directly = merged(run(4, go_on, layout.run(source, f"trainer.dtype={dtype}"), None, batch))
    detour = merged(run(4, go_on, layout.run("null", f"trainer.dtype={dtype}"), checkpoint, batch))
    assert all(torch.equal(directly[name], detour[name]) for name in directly)


def restore_only(where: Rendezvous, config: RunConfig, folder: Path) -> str:
    """What resuming a run from weights alone says."""
    try:
        started(where, config).restore(folder)
    except UserError as error:
        return str(error)
    return ""


def save_without_folder(where: Rendezvous, config: RunConfig, imported: Path, folder: Path) -> Any:
    """A checkpoint of a run that names no folder."""
    worker = started(where, config)
    worker.restore(imported, weights_alone=True)
    worker.save(folder)


def test_a_run_that_names_no_folder_is_exported_like_another(models: Path) -> None:
    """Its checkpoint has no configuration in it, and the line says what to give."""
    source = source_of(models, Layout())
    imported, saved = models / "imported-bare", models / "saved-bare"
    import_folder(source, imported)
    run(1, save_without_folder, Layout().run("null"), imported, saved)
    with pytest.raises(UserError, match="--like"):
        export_checkpoint(saved, models / "refused")
    assert inspect(saved)["names"] == "trainer"
    export_checkpoint(saved, models / "exported-bare", like=source)
    assert verify(source, models / "exported-bare")[1] == verify(saved, source)[1] == []


def critic(where: Rendezvous, config: RunConfig, folder: Path) -> Any:
    """A model with a scalar head, from weights that have another."""
    worker = started(where, config, head="scalar")
    head = {name: tensor.clone() for name, tensor in worker.weights() if name.startswith("head.")}
    worker.restore(folder, weights_alone=True)
    loaded = dict(worker.weights())
    kept = all(torch.equal(tensor, loaded[name]) for name, tensor in head.items())
    return kept, {name: tensor.clone() for name, tensor in loaded.items() if name not in head}


def test_a_scalar_head_keeps_its_start_over_imported_weights(models: Path) -> None:
    """As it does over a folder of the hub."""
    source = source_of(models, Layout(also=UNTIED))
    imported, hub = models / "imported-critic", HubFolder(source)
    import_folder(source, imported)
    kept, weights = run(1, critic, Layout(also=UNTIED).run("null"), imported)[0]
    assert kept
    assert weights.keys() == hub.infos.keys() - {"lm_head.weight"}
    assert all(torch.equal(weights[name], hub.tensor(name)) for name in weights)


def test_a_run_does_not_go_on_from_weights_alone(models: Path) -> None:
    """It has no optimizer and no random states to go on with."""
    source = source_of(models, Layout())
    checkpoint = models / "imported-alone"
    import_folder(source, checkpoint)
    assert "it holds weights alone" in run(1, restore_only, Layout().run("null"), checkpoint)[0]
