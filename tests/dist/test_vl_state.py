"""A run that is saved and restored goes on as if nothing had happened, under its layout and under any other.

Real processes, the small model, fresh processes on the side that restores: they start from another seed and without a
checkpoint of the hub, so all that they know comes from ours. Files, forged ones among them, have tests in
`test_checkpoint.py`. Not covered: several nodes, sizes where one file per rank is not enough.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run
from small_vl import Layout, folder_of, held, merged, processes_of, reference, small_batch, started
from vl_state import Seen, restore_and_look, take, together, train_and_save, unequal

from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import UserError
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.parity.compare import apart
from hpt_megatron.parity.trained import plain_sampling
from hpt_megatron.protocol.batch import Batch

pytestmark = pytest.mark.slow

LR = 1e-3
RATES = [LR * (1 - step / 7) for step in range(8)]
SCHEDULE = ("trainer.lr_schedule=linear", "trainer.lr_warmup_steps=1", "trainer.total_training_steps=8")
FIVE_LAYERS = ("model.num_hidden_layers=5",)
ODD_VOCABULARY = ("model.vocab_size=501", "layout.vocab_multiple=8")
FRESH = ("model.path=null", "trainer.seed=77")

Saved = Callable[[Layout], tuple[Path, list[Seen]]]


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For models and checkpoints."""
    return tmp_path_factory.mktemp("state")


def shape_of(layout: Layout) -> tuple[str, ...]:
    """The keys that make another model."""
    return tuple(text for text in layout.also if text.startswith("model."))


def config_of(where: Path, layout: Layout, *more: str) -> RunConfig:
    """The run of a layout, with a rate that falls."""
    return layout.run(folder_of(where, *shape_of(layout)), *SCHEDULE, *more)


def rows_of(config: RunConfig) -> Batch:
    """The same rows for every layout of a model."""
    return small_batch(config)


@pytest.fixture(scope="module")
def saved(where: Path) -> Saved:
    """Trains and saves once per layout; answers the folder of both checkpoints and what the undisturbed run saw."""
    known: dict[Layout, tuple[Path, list[Seen]]] = {}

    def make(layout: Layout) -> tuple[Path, list[Seen]]:
        if layout not in known:
            folder, config = where / f"saved-{len(known)}", config_of(where, layout)
            given = (config, rows_of(config), str(folder / "cheap"), str(folder / "last"), 2)
            known[layout] = folder, run(processes_of(config), train_and_save, *given)
        return known[layout]

    return make


def restored(where: Path, layout: Layout, folder: Path, more: int = 1, *given: str) -> list[Seen]:
    """What fresh processes find in a checkpoint."""
    config = config_of(where, layout, *FRESH, *given)
    return run(processes_of(config), restore_and_look, config, rows_of(config), str(folder), more)


BF16 = ("trainer.dtype=bf16",)
SAME = [Layout(tp=2, pp=2), Layout(cp=2, dp=2), Layout(pp=2, vpp=2), Layout(tp=2, dp=2, also=BF16)]


@pytest.mark.parametrize("layout", SAME, ids=lambda layout: layout.name)
def test_the_same_layout_goes_on_bit_for_bit(saved: Saved, where: Path, layout: Layout) -> None:
    """Weights, moments, counts, what every generator draws next, and the two steps that follow with their rates."""
    folder, undisturbed = saved(layout)
    for there, here in zip(restored(where, layout, folder / "cheap", 2), undisturbed, strict=True):
        assert not unequal(there.weights, here.weights)
        assert not unequal(there.moments, here.moments)
        assert {**here.counts, "extra": {}} == there.counts
        assert all(torch.equal(a, b) for a, b in zip(there.draws, here.draws, strict=True))
        assert there.steps == here.steps
        assert not unequal(there.after, here.after)
        assert [rate for _, _, rate in there.steps] == pytest.approx(RATES[2:4], rel=1e-12)


ACROSS = {
    "tp2-pp2 to alone": (Layout(tp=2, pp=2), Layout()),
    "alone to tp4": (Layout(), Layout(tp=4)),
    "cp2-dp2 to tp2-pp2-vpp2": (Layout(cp=2, dp=2), Layout(tp=2, pp=2, vpp=2)),
    "five layers, pp2 to tp2": (Layout(pp=2, also=FIVE_LAYERS), Layout(tp=2, also=FIVE_LAYERS)),
    "vocabulary padded by 3, then 11": (Layout(also=ODD_VOCABULARY), Layout(tp=4, also=ODD_VOCABULARY)),
    "vocabulary padded by 11, then 3": (Layout(tp=4, also=ODD_VOCABULARY), Layout(pp=2, also=ODD_VOCABULARY)),
}


@pytest.mark.parametrize(("before", "after"), ACROSS.values(), ids=ACROSS)
def test_another_layout_finds_the_same_state_and_goes_on(
    saved: Saved, where: Path, before: Layout, after: Layout
) -> None:
    """State to the bit by the checkpoint's names; the next step to the order of sums."""
    folder, undisturbed = saved(before)
    here, there = together(undisturbed), together(restored(where, after, folder / "last", 2))
    assert not unequal(there.weights, here.weights)
    assert not unequal(there.moments, here.moments)
    assert there.counts == {**here.counts, "extra": {"epoch": 3}}
    for (ours, norm, rate), (theirs, their_norm, their_rate) in zip(there.steps, here.steps, strict=True):
        size = max(map(abs, theirs.values()))
        assert all(abs(ours[name] - theirs[name]) < 1e-6 * size for name in theirs)
        assert norm == pytest.approx(their_norm, rel=1e-5)
        assert rate == their_rate
    assert max(float((there.after[name] - tensor).abs().max()) for name, tensor in here.after.items()) < LR / 100


TOWER = replace(Layout(), also=("model.tie_word_embeddings=false",))


def freezing(config: RunConfig, *patterns: str) -> RunConfig:
    """The same run with something frozen."""
    return replace(config, trainer=replace(config.trainer, freeze=patterns))


@pytest.mark.parametrize("sharding", ["cheap", "last"])
def test_frozen_parts_come_back_under_another_layout_and_another_choice_is_refused(
    where: Path, tmp_path: Path, sharding: str
) -> None:
    """The same parameters may be named by other patterns; weights alone load whatever was frozen."""
    begun = freezing(config_of(where, replace(TOWER, pp=2)), "visual.*")
    batch = rows_of(begun)
    cheap, last = str(tmp_path / "cheap"), str(tmp_path / "last")
    here = together(run(2, train_and_save, begun, batch, cheap, last, 1))
    assert not any("visual" in name for name in here.moments)
    other = replace(TOWER, tp=2, pp=1) if sharding == "last" else replace(TOWER, pp=2)
    config = config_of(where, other, *FRESH)
    folder = last if sharding == "last" else cheap
    same = freezing(config, "visual.blocks.*", "visual.merger.*", "visual.patch_embed.*")
    there = together(run(2, restore_and_look, same, batch, folder, 1))
    assert not unequal(there.weights, here.weights)
    assert not unequal(there.moments, here.moments)
    assert max(float((there.after[name] - tensor).abs().max()) for name, tensor in here.after.items()) < LR / 100
    for patterns in ((), ("visual.*", "model.embed_tokens.weight")):
        with pytest.raises(UserError, match=r"its optimizer was saved with \d+ frozen .* is frozen only .*weights_alone"):
            run(2, restore_and_look, freezing(config, *patterns), batch, folder, 1)
    new = replace(config, trainer=replace(config.trainer, freeze=("lm_head.weight",), dtype="bf16"))
    alone = run(2, restore_weights_alone, new, batch, folder)
    begun_from, after = (merged([answer[at] for answer in alone]) for at in (0, 1))
    assert not unequal(begun_from, {name: tensor.bfloat16() for name, tensor in here.weights.items()})
    assert torch.equal(after["lm_head.weight"], begun_from["lm_head.weight"])
    assert all((after[name] - begun_from[name]).abs().max() < 2**-6 for name in after), "it began from other weights"
    moving = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(after[moving], begun_from[moving])


def restore_weights_alone(where: Rendezvous, config: RunConfig, batch: Batch, folder: str) -> Any:
    """A new run from old weights: these, and those after its first step."""
    worker = started(where, config)
    worker.restore(folder, weights_alone=True)
    assert worker.steps == 0
    before = held(worker)
    (_, _, rate), *_ = take(worker, batch, 1)
    assert rate == RATES[0]
    return before, held(worker)


def restore_and_say(where: Rendezvous, config: RunConfig, batch: Batch, folder: str) -> Any:
    """Logits of a worker that knows nothing but a checkpoint of ours, and has no optimizer."""
    worker = started(where, config, train=False)
    worker.restore(folder)
    assert worker.optimizer is None
    numbered = replace(batch, rows=batch.rows.with_tokens(place=torch.arange(batch.rows.num_tokens)))
    parts = worker.split(numbered)
    said = worker.logits(parts, plain_sampling(worker))
    return [(parts[at].rows.tokens["place"][token], logits) for at, (token, logits) in enumerate(said)]


def save_untrained(where: Rendezvous, config: RunConfig, folder: str) -> None:
    """What was loaded, saved."""
    started(where, config).save(folder, last=True)


@pytest.mark.parametrize(
    ("before", "after"), [(Layout(tp=2), Layout(cp=2)), (Layout(pp=2), Layout(tp=2, pp=2))], ids=["tp2-cp2", "pp2-4"]
)
def test_logits_after_a_save_and_a_load_are_those_of_transformers(
    where: Path, tmp_path: Path, before: Layout, after: Layout
) -> None:
    """Text, images, several of them; the loading side is given no checkpoint of the hub."""
    config = config_of(where, before)
    batch = rows_of(config)
    run(2, save_untrained, config, str(tmp_path / "saved"))
    answers = run(after.processes, restore_and_say, config_of(where, after, *FRESH), batch, str(tmp_path / "saved"))
    theirs = reference(config, batch).logits
    ours = torch.zeros_like(theirs)
    for place, logits in (pair for answer in answers for pair in answer):
        ours[place] = logits
    assert apart(ours, theirs)[1] < 1e-5


def test_the_checkpoint_of_another_shape_is_refused_in_one_line(saved: Saved, where: Path) -> None:
    """More layers, a wider FFN, another vocabulary than was saved; with and without an optimizer."""
    folder, _ = saved(Layout(tp=2, pp=2))
    for shape in (("model.num_hidden_layers=5",), ("model.intermediate_size=56",), ("model.vocab_size=640",)):
        with pytest.raises(UserError) as caught:  # noqa: PT012
            restored(where, Layout(also=shape), folder / "last")
        assert "was the same model saved?" in str(caught.value), shape
        assert "\n" not in str(caught.value)


def digests(where: Rendezvous, config: RunConfig, folder: str) -> tuple[dict[str, str], dict[str, str]]:
    """Of a restored model, and after one element of one tensor was changed on the rank that holds it."""
    worker = started(where, config, train=False)
    worker.restore(folder)
    before = worker.digest()
    if where.rank == where.world_size - 1:
        for model in worker.models:
            with torch.no_grad():
                model.decoder.layers[-1].mlp.linear_fc2.weight[3, 5] += 1e-3
    return before, worker.digest()


def test_the_digest_is_that_of_the_tensors_whatever_holds_them(saved: Saved, where: Path) -> None:
    """Equal by name in every layout; it changes for the tensor of which one element changes, and for no other."""
    folder, _ = saved(Layout(tp=2, pp=2))
    known: list[dict[str, str]] = []
    for layout in (Layout(), Layout(tp=2, pp=2), Layout(tp=4), Layout(pp=2, vpp=2)):
        config = config_of(where, layout, *FRESH)
        answers = run(layout.processes, digests, config, str(folder / "last"))
        before, after = ({name: sha for answer in answers for name, sha in answer[at].items()} for at in (0, 1))
        known.append(before)
        changed = {name for name in before if before[name] != after[name]}
        last = "model.layers.3.mlp.down_proj.weight"
        assert changed == ({"model.layers.1.mlp.down_proj.weight", last} if layout.vpp > 1 else {last})
    assert all(of_layout == known[0] for of_layout in known)
