"""What a step does and refuses to do: frozen parts, recomputation, precision, bad rows, bad numbers, offloading.

Real processes, the small model. Not covered: fused kernels, which need a GPU.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run
from small_vl import Layout, folder_of, held, merged, outcome_of, plain, processes_of, reference, small_batch, started
from torch import Tensor

from hpt_megatron.algorithms.objective.part import Part, View
from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.mcore.agree import BadRowsError
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.parity.compare import apart, compare
from hpt_megatron.parity.rows import components
from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows

pytestmark = pytest.mark.slow

CLOSE = 1e-5
UNTIED = ("model.tie_word_embeddings=false",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model, untied, so that each stage can be frozen whole."""
    return folder_of(tmp_path_factory.mktemp("model"), *UNTIED)


@pytest.fixture(scope="module")
def batch(folder: Path) -> Batch:
    """Its rows."""
    return small_batch(Layout(also=UNTIED).run(folder))


def untied(layout: Layout, folder: Path, *more: str) -> RunConfig:
    """The run on a layout, with an output matrix of its own."""
    return replace(layout, also=(*UNTIED, *more)).run(folder)


FROZEN = {
    "tower and merger": ("visual.*",),
    "merger": ("visual.merger.*",),
    "tower without merger": ("visual.blocks.*", "visual.patch_embed.*"),
    "embedding": ("model.embed_tokens.weight",),
    "output": ("lm_head.weight",),
    "norms": ("*norm*.weight",),
    "first layers": ("model.layers.[01].*",),
    "the whole first stage": ("visual.*", "model.embed_tokens.weight", "model.layers.[01].*"),
    "the whole last stage": ("model.layers.[23].*", "model.norm.weight", "lm_head.weight"),
    "all but the tower": ("model.*", "lm_head.weight"),
}


def frozen_steps(where: Rendezvous, config: RunConfig, batch: Batch, target: str) -> Any:
    """Gradients, two steps, a checkpoint that is read again, the weights, and how many moments there are."""
    worker = started(where, config)
    before = held(worker)
    worker.accumulate(worker.split(batch), components(), plain(worker))
    gradients = {name: gradient.clone() for name, gradient in worker.gradients()}
    for _ in range(2):
        report = worker.update(worker.split(batch), components(), plain(worker))
        assert not report.skipped
    worker.save(target, last=True)
    after = held(worker)
    worker.update(worker.split(batch), components(), plain(worker))
    worker.restore(target)
    assert worker.steps == 2
    again = held(worker)
    assert all(torch.equal(again[name], tensor) for name, tensor in after.items())
    moments = sum(len(part.optimizer.state) for part in worker.optimizer.chained_optimizers if part.optimizer)
    return before, gradients if worker.speaks else {}, after, moments


@pytest.mark.parametrize("layout", [Layout(pp=2), Layout(tp=2, cp=2)], ids=lambda layout: layout.name)
@pytest.mark.parametrize("part", FROZEN)
def test_a_frozen_part_stands_still_and_the_rest_learns(
    folder: Path, batch: Batch, tmp_path: Path, layout: Layout, part: str
) -> None:
    """Gradients of the rest equal the reference's; a stage or a rank with nothing to train trains, saves and loads."""
    config = untied(layout, folder)
    config = replace(config, trainer=replace(config.trainer, freeze=FROZEN[part]))
    theirs = reference(config, batch)
    answers = run(processes_of(config), frozen_steps, config, batch, str(tmp_path / "saved"))
    before, gradients, after = (merged([answer[at] for answer in answers]) for at in range(3))
    still = {name for name in before if name not in gradients}
    assert still, "something should be frozen"
    assert gradients, "something should be trained"
    wrong = [name for name in gradients if apart(gradients[name], theirs.gradients[name])[1] > CLOSE]
    assert not wrong, wrong
    assert {name for name in before if torch.equal(before[name], after[name])} == still
    if part.startswith("the whole") and layout.pp == 2:
        assert sorted(answer[3] > 0 for answer in answers) == [False, True], "one stage should have no moments at all"


def first_moments(where: Rendezvous, config: RunConfig, batch: Batch) -> tuple[float, Tensor]:
    """The norm that a first step reports, and what Adam has seen of the gradient."""
    worker = started(where, config)
    norm = worker.update(worker.split(batch), components(), plain(worker)).grad_norm
    seen = [state["exp_avg"].flatten() for part in worker.optimizer.chained_optimizers for state in part.optimizer.state.values()]
    return norm, torch.cat(seen)


def test_a_step_is_made_of_the_gradient_cut_to_the_norm_that_is_allowed(folder: Path, batch: Batch) -> None:
    """g min(1, clip / |g|), by the first moment (1 - beta1) g of Adam; 0 cuts nothing, and neither does a clip above."""
    config = untied(Layout(), folder)
    found = {}
    for clip in (0.0, 1e3, 0.25):
        own = replace(config, trainer=replace(config.trainer, clip_grad=clip))
        ((norm, found[clip]),) = run(1, first_moments, own, batch)
    assert norm > 0.25, "or there is nothing to cut"
    assert float(found[0.0].norm()) == pytest.approx(0.1 * norm, rel=1e-4)
    assert torch.equal(found[0.0], found[1e3])
    assert torch.allclose(found[0.25], found[0.0] * 0.25 / norm, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("part", ["typo.*", "model.layers.0.self_attn.q_proj.*"])
def test_a_pattern_that_freezes_nothing_or_half_a_parameter_is_refused(folder: Path, part: str) -> None:
    """In one line, on every process."""
    config = untied(Layout(tp=2), folder)
    config = replace(config, trainer=replace(config.trainer, freeze=(part,)))
    with pytest.raises(UserError, match=r"trainer.freeze: (no tensor of the model matches typo|freezes part of a fused)"):
        run(2, started, config)


@pytest.mark.parametrize("how", ["none", "selective", "full"])
def test_recomputation_and_overlap_change_no_gradient(folder: Path, batch: Batch, how: str) -> None:
    """Against transformers, with gradients reduced in several buckets while backward runs, and without."""
    for overlap in ("true", "false"):
        given = (f"trainer.recompute={how}", f"trainer.overlap_communication={overlap}")
        config = untied(Layout(tp=2, cp=2, dp=2, pack=64), folder, *given)
        ours, _ = outcome_of(config, batch)
        assert not [one for one in compare(ours, reference(config, batch)) if one.relative > CLOSE]


def test_the_skip_of_rows_without_images_keeps_every_rank_in_step(folder: Path, batch: Batch) -> None:
    """Text alone, with a tower: its gradients are exactly 0, and nobody waits for anybody."""
    text = batch.select((batch.counts == 0).nonzero()[:, 0])
    config = untied(Layout(tp=2, cp=2, pp=2, pack=64), folder)
    ours, _ = outcome_of(config, text)
    assert not [one for one in compare(ours, reference(config, text)) if one.relative > CLOSE]
    assert all(not gradient.any() for name, gradient in ours.gradients.items() if name.startswith("visual."))


def bf16_steps(where: Rendezvous, config: RunConfig, batch: Batch) -> Any:
    """Losses and norms of some steps, and the precision of what must not be rounded."""
    worker = started(where, config)
    seen = [worker.update(worker.split(batch), components(), plain(worker)) for _ in range(3)]
    tower = next((model.module.visual for model in worker.models if model.module.visual is not None), None)
    kinds = {buffer.dtype for buffer in tower.buffers()} if tower is not None else {torch.float32}
    kinds |= {param.main_grad.dtype for model in worker.models for param in model.parameters()}
    return [(dict(report.losses), report.grad_norm) for report in seen], kinds


@pytest.mark.parametrize("layout", [Layout(tp=2, pp=2), Layout(cp=2, dp=2)], ids=lambda layout: layout.name)
def test_bf16_follows_float32_as_closely_as_bf16_can(folder: Path, batch: Batch, layout: Layout) -> None:
    """Losses within 2^-6 of float32's, of the largest's size; rotary frequencies and gradients stay in float32."""
    single = run(1, bf16_steps, untied(Layout(), folder), batch)[0][0]
    answers = run(layout.processes, bf16_steps, untied(layout, folder, "trainer.dtype=bf16"), batch)
    for seen, kinds in answers:
        assert kinds == {torch.float32}
        for (losses, norm), (exact, exact_norm) in zip(seen, single, strict=True):
            size = max(map(abs, exact.values()))
            assert all(abs(losses[name] - exact[name]) < 2**-6 * size for name in exact)
            assert abs(norm - exact_norm) < 2**-4 * exact_norm


def spoil(batch: Batch, kind: str) -> Batch:
    """The rows with one of them bad, as one process may see it."""
    rows, ids = batch.rows, batch.rows.tokens["ids"].clone()
    images, shown, counts = batch.images, batch.shown.clone(), batch.counts
    row = int((counts > 0).nonzero()[0])
    tokens, fields = dict(rows.tokens), dict(rows.fields)
    first, length = int(rows.starts[row]), int(rows.lengths[row])
    if kind == "image tokens":
        marked = (ids == 486).nonzero()[0]
        ids[marked] = 5
    elif kind == "image id":
        shown[0] = 99
    elif kind == "empty target":
        trained = tokens["trained"].clone()
        trained[first : first + length] = False
        tokens["trained"] = trained
        fields["off"] = torch.arange(rows.num_rows) == row
    elif kind == "token id":
        ids[first] = 5000
    elif kind == "first token":
        weight = tokens["weight_sft"].clone()
        weight[first] = 1.0
        tokens["weight_sft"] = weight
    elif kind == "placeholder":
        tokens["weight_sft"] = torch.where(ids == 486, 1.0, tokens["weight_sft"])
    elif kind == "column":
        del tokens["credit"]
    tokens["ids"] = ids
    return Batch(Rows(rows.lengths, tokens, fields), images, shown, counts)


def refuse(where: Rendezvous, config: RunConfig, batch: Batch, kind: str, bad_rank: int) -> Any:
    """What every process says when one alone has a bad row; and that it can go on afterwards."""
    worker = started(where, config)
    before = held(worker)
    parts = worker.split(batch)
    spoilt = [spoil(part, kind) if bool((part.counts > 0).any()) else part for part in parts]
    try:
        worker.update(spoilt if where.rank == bad_rank else parts, components(), worker.sampling())
    except BadRowsError as error:
        said = str(error)
    else:
        said = ""
    unchanged = all(torch.equal(tensor, before[name]) for name, tensor in held(worker).items())
    return said, unchanged, worker.update(parts, components(), plain(worker)).loss


BAD = {
    "image tokens": "image tokens, but its",
    "image id": "shows image 99, but there are 4",
    "empty target": "a demonstration in which nothing is trained",
    "placeholder": "a placeholder is given a weight",
    "column": "rows have no column credit, which the loss rl reads",
    "token id": "a token id is outside 0 to 508",
    "first token": "its first token cannot be trained",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_on_one_rank_alone_is_refused_on_all_and_none_hangs(folder: Path, batch: Batch, kind: str) -> None:
    """With the name of the row; nothing has changed, and the next step works."""
    config = untied(Layout(tp=2, pp=2), folder)
    answers = run(4, refuse, config, batch, kind, 3)
    for said, unchanged, loss in answers:
        assert BAD[kind] in said
        assert ("(prompt " in said) == (kind != "column")
        assert unchanged
        assert loss == answers[0][2]


def test_a_row_longer_than_a_pack_is_refused_with_its_length(folder: Path, batch: Batch) -> None:
    """Before anything is planned or computed."""
    config = untied(Layout(), folder)
    config = replace(config, trainer=replace(config.trainer, ppo_max_token_len_per_gpu=16))
    with pytest.raises(UserError, match=r"row \d+ \(prompt \d+, sample 0\): \d+ tokens do not fit"):
        run(1, refuse, config, batch, "none", 0)


class Steep:
    """A loss of 0 whose gradient is no number, on one process; nothing on the others."""

    name, reads = "sft", ()

    def __init__(self, here: bool) -> None:
        self.here = here

    def __call__(self, view: View) -> Part:
        """The square root of 0."""
        flat = (view.logp - view.logp.detach()).abs().sqrt() if self.here else view.logp * 0
        return Part(view.weighted(flat))


def bad_numbers(where: Rendezvous, config: RunConfig, batch: Batch, kind: str, bad_rank: int) -> Any:
    """A step on numbers that are none, on one rank alone; then one on good ones."""
    worker = started(where, config)
    before = held(worker)
    parts = worker.split(batch)
    bad = list(parts)
    if where.rank == bad_rank and kind == "loss":
        for at, part in enumerate(parts):
            if part.rows.num_rows:
                column = part.rows.tokens["old_logp"].clone()
                column[int((part.rows.tokens["weight_rl"] != 0).nonzero()[0])] = float("nan")
                bad[at] = replace(part, rows=part.rows.with_tokens(old_logp=column))
                break
    if kind == "gradient of a weight" and where.rank == bad_rank:
        param = next(worker.models[0].parameters())
        param.register_hook(lambda gradient: gradient * float("nan"))
    losses = [*components(), Steep(where.rank == bad_rank)] if kind == "gradient" else components()
    report = worker.update(bad, losses, plain(worker))
    unchanged = all(torch.equal(tensor, before[name]) for name, tensor in held(worker).items())
    return report.skipped, unchanged, (worker.steps, worker.skipped)


@pytest.mark.parametrize("kind", ["loss", "gradient", "gradient of a weight"])
def test_numbers_that_are_none_skip_the_step_on_all_ranks(folder: Path, batch: Batch, kind: str) -> None:
    """Planted on one rank of a pipeline with data parallelism; the report says why, and names the row where it can."""
    config = untied(Layout(pp=2, dp=2), folder)
    answers = run(4, bad_numbers, config, batch, kind, 3)
    for skipped, unchanged, counts in answers:
        said = {"loss": "not a number: loss in row", "gradient": "not a number: gradient in row"}
        assert said.get(kind, "the gradient's norm is nan") in skipped
        assert ("(prompt " in skipped) == (kind in said)
        assert unchanged
        assert counts == (0, 1)


def large_norm(where: Rendezvous, config: RunConfig, batch: Batch) -> Any:
    """A step whose norm is above the bound."""
    worker = started(where, config)
    before = held(worker)
    report = worker.update(worker.split(batch), components(), plain(worker))
    return report.skipped, all(torch.equal(tensor, before[name]) for name, tensor in held(worker).items())


def test_a_step_with_too_large_a_norm_is_skipped_on_all_ranks(folder: Path, batch: Batch) -> None:
    """And says by how much."""
    config = untied(Layout(tp=2, dp=2), folder)
    config = replace(config, trainer=replace(config.trainer, max_grad_norm=1e-3, clip_grad=0.0))
    for skipped, unchanged in run(4, large_norm, config, batch):
        assert "is above 0.001 (trainer.max_grad_norm)" in skipped
        assert unchanged


def offload_in_between(where: Rendezvous, config: RunConfig, batch: Batch, offload: bool) -> Any:
    """Steps with everything moved out and back after each; and how much memory was held meanwhile."""
    worker = started(where, config)
    losses, bytes_out = [], []
    for _ in range(3):
        losses.append(worker.update(worker.split(batch), components(), plain(worker)).loss)
        if offload:
            worker.offload()
            worker.offload()
            buffers = [buffer for model in worker.models for buffer in model.buffers]
            bytes_out.append(sum(b.param_data.untyped_storage().nbytes() for b in buffers))
            bytes_out.append(sum(b.grad_data.untyped_storage().nbytes() for b in buffers))
            worker.onload()
    said = worker.log_probs(worker.split(batch), plain(worker))
    return losses, [part["logp"] for part in said], held(worker), bytes_out


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_is_moved_out_comes_back_bit_for_bit(folder: Path, batch: Batch, dtype: str) -> None:
    """Weights, moments and everything that follows; meanwhile the buffers hold nothing."""
    config = untied(Layout(tp=2, dp=2), folder, f"trainer.dtype={dtype}")
    stayed, moved = (run(4, offload_in_between, config, batch, offload) for offload in (False, True))
    for (losses, logp, weights, _), (again, logp_again, weights_again, out) in zip(stayed, moved, strict=True):
        assert losses == again
        assert all(torch.equal(a, b) for a, b in zip(logp, logp_again, strict=True))
        assert all(torch.equal(weights[name], weights_again[name]) for name in weights)
        assert out == [0] * 6


def while_sent(where: Rendezvous, config: RunConfig, batch: Batch) -> list[Any]:
    """Digests before and while all but the weights is out, what an update says then, and the step that follows."""
    worker = started(where, config)
    parts, before = worker.split(batch), worker.digest()
    worker.offload(weights=False)
    buffers = [buffer for model in worker.models for buffer in model.buffers]
    out = sum(b.grad_data.untyped_storage().nbytes() for b in buffers)
    same = worker.digest() == before
    try:
        worker.update(parts, components())
        said = ""
    except HptError as error:
        said = str(error)
    worker.offload()
    worker.onload()
    return [out, same, said, worker.update(parts, components(), plain(worker)).loss]


def test_weights_can_be_read_and_sent_while_all_else_is_out(folder: Path, batch: Batch) -> None:
    """The order in which engine and trainer share devices; what is read is what publishing compares."""
    config = untied(Layout(tp=2), folder)
    stayed = run(2, offload_in_between, config, batch, False)[0][0][0]
    for out, same, said, loss in run(2, while_sent, config, batch):
        assert (out, same, loss) == (0, True, stayed)
        assert "its gradients are moved out; call onload() first" in said


def while_away(where: Rendezvous, config: RunConfig, batch: Batch) -> list[str]:
    """What is said to a call between `offload` and `onload`."""
    worker = started(where, config)
    parts = worker.split(batch)
    worker.offload()
    said = []
    calls = (
        lambda: worker.update(parts, components()),
        lambda: worker.log_probs(parts),
        lambda: worker.save("nowhere"),
        lambda: list(worker.weights()),
    )
    for call in calls:
        try:
            call()
        except HptError as error:
            said.append(str(error))
    worker.onload()
    worker.update(parts, components(), plain(worker))
    return said


def test_nothing_is_computed_on_weights_that_are_moved_out(folder: Path, batch: Batch) -> None:
    """Empty buffers would end the process without a word."""
    assert run(1, while_away, untied(Layout(), folder), batch)[0] == ["its weights are moved out; call onload() first"] * 4


def scored(where: Rendezvous, config: RunConfig, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Log-probs as they are asked for by default, and which tokens are trained."""
    worker = started(where, config, train=False)
    parts = worker.split(batch)
    said = worker.log_probs(parts)
    return [(part.rows.tokens["trained"], one["logp"]) for part, one in zip(parts, said, strict=True)]


def test_log_probs_are_those_of_trained_tokens_and_finite(folder: Path, batch: Batch) -> None:
    """A placeholder in a prompt can never be sampled; its minus infinity must not reach a sum over a row."""
    for trained, logp in run(1, scored, untied(Layout(), folder), batch)[0]:
        assert torch.equal(logp != 0, trained)
        assert torch.isfinite(logp).all()


def test_freezing_everything_is_refused(folder: Path) -> None:
    """Whatever the patterns are that come to it."""
    config = untied(Layout(), folder)
    config = replace(config, trainer=replace(config.trainer, freeze=("model.*", "visual.*", "lm_head.*")))
    with pytest.raises(UserError, match="trainer.freeze: leaves nothing to train"):
        run(1, started, config)
