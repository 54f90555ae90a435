"""The scalar head above the whole model: values, their loss and every gradient, and one score per row.

Against transformers' last hidden states with a plain linear map, in one process and in layouts. Real processes, the
small model. Not covered: how values are used, which is GAE's part.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run
from small_vl import Layout, folder_of, held, merged, processes_of, small_batch, started
from torch import Tensor
from torch.nn import functional
from vl_state import moments, unequal

from hpt_megatron.algorithms.objective.part import View
from hpt_megatron.algorithms.objective.value import Value
from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.mcore.model.named import parameters_of
from hpt_megatron.mcore.model.scalar_head import last_tokens
from hpt_megatron.mcore.worker import MegatronWorker
from hpt_megatron.parity.compare import apart
from hpt_megatron.parity.reference import _pictures, load_reference
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.weights.table import canonical

pytestmark = pytest.mark.slow

CLOSE = 1e-5
LOSS = Value(clip=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain language model's checkpoint, without a head for values."""
    return folder_of(tmp_path_factory.mktemp("model"))


def known_head(hidden: int) -> tuple[Tensor, Tensor]:
    """A head that is not zero, the same in every process."""
    generator = torch.Generator().manual_seed(5)
    return 0.3 * torch.randn(1, hidden, generator=generator), torch.tensor([0.25])


def value_rows(config: RunConfig) -> Batch:
    """Rows with returns and old values; some of these are near enough for the clip to let the value through."""
    batch = small_batch(config)
    rows, generator = batch.rows, torch.Generator().manual_seed(6)
    used = rows.tokens["weight_rl"] != 0
    columns = {name: 2 * torch.randn(rows.num_tokens, generator=generator) for name in ("old_value", "returns")}
    weight = torch.where(used, torch.rand(rows.num_tokens, generator=generator) / int(used.sum()), 0.0)
    kept = {name: column for name, column in rows.tokens.items() if not name.startswith("weight_")}
    return replace(batch, rows=replace(rows, tokens={**kept, **columns, "weight_value": weight}))


@pytest.fixture(scope="module")
def batch(folder: Path) -> Batch:
    """The rows of every test."""
    return value_rows(Layout().run(folder))


def set_head(worker: MegatronWorker) -> None:
    """Writes the known head into the model and, in bf16, into the optimizer's copy."""
    weight, bias = known_head(worker.run.model.hidden_size)
    for name, param in parameters_of(worker.models):
        if name.startswith("head."):
            param.data.copy_(weight if name.endswith("weight") else bias)
    if worker.optimizer is not None:
        worker.optimizer.reload_model_params()


def judge(where: Rendezvous, config: RunConfig, batch: Batch) -> Any:
    """Values, scores, loss, metrics and gradients; then a step."""
    worker = started(where, config, head="scalar")
    untouched = [float(values.abs().max()) for values in worker.values(worker.split(batch)) if len(values)]
    assert not any(untouched), "a new head says 0"
    set_head(worker)
    numbers = torch.arange(batch.rows.num_tokens), torch.arange(batch.rows.num_rows)
    numbered = replace(batch, rows=batch.rows.with_tokens(place=numbers[0]).with_fields(row=numbers[1]))
    parts = worker.split(numbered)
    values = [(part.rows.tokens["place"], said) for part, said in zip(parts, worker.values(parts), strict=True)]
    scores = [(part.rows.fields["row"], said[:, 0]) for part, said in zip(parts, worker.scores(parts), strict=True)]
    report = worker.accumulate(parts, [LOSS])
    gradients = {name: gradient.clone() for name, gradient in worker.gradients()}
    moved = worker.update(parts, [LOSS])
    assert not moved.skipped
    assert moved.losses == report.losses
    return values, scores, report, gradients if worker.speaks else {}, held(worker)


def directly(config: RunConfig, batch: Batch) -> tuple[Tensor, Tensor, float, dict[str, Tensor]]:
    """Values, scores, loss and gradients from transformers' hidden states."""
    assert config.model.path is not None
    network = load_reference(config.model.path)
    network.get_input_embeddings().padding_idx = None
    weight, bias = (tensor.requires_grad_() for tensor in known_head(config.model.hidden_size))
    before, last, ends = [], [], (last_tokens(batch.rows) - batch.rows.starts).tolist()
    for row, ids in enumerate(torch.split(batch.rows.tokens["ids"], batch.rows.lengths.tolist())):
        shown = _pictures(network, config.model, batch, row, ids)
        hidden = network.model(input_ids=ids[None], use_cache=False, **shown).last_hidden_state[0]
        numbers = functional.linear(hidden, weight, bias)[:, 0]
        before.append(functional.pad(numbers[:-1], (1, 0)))  # what is said before token t stands at t
        last.append(numbers[ends[row]])
    values = torch.cat(before)
    columns = {name: batch.rows.tokens[name] for name in ("old_value", "returns")}
    view = View.of_rows(values, batch.rows.tokens["weight_value"], batch.rows.row_of_token, value=values, **columns)
    loss = LOSS(view).loss
    loss.backward()
    gradients = {canonical(name): param.grad for name, param in network.named_parameters() if param.grad is not None}
    assert weight.grad is not None and bias.grad is not None
    gradients |= {"head.weight": weight.grad, "head.bias": bias.grad}
    return values.detach(), torch.stack(last).detach(), loss.item(), gradients


def collected(batch: Batch, answers: list[Any]) -> tuple[Tensor, Tensor]:
    """Values by token and scores by row, from what all processes say; copies agree."""
    values, scores = torch.zeros(batch.rows.num_tokens), torch.zeros(batch.rows.num_rows)
    for of_values, of_scores, *_ in answers:
        for target, pairs in ((values, of_values), (scores, of_scores)):
            for place, said in pairs:
                assert not target[place].any() or torch.equal(target[place], said)
                target[place] = said
    return values, scores


LAYOUTS = [
    Layout(),
    Layout(tp=2),
    Layout(pp=2),
    Layout(cp=2),
    Layout(dp=2, pack=64),
    Layout(pp=2, vpp=2, pack=64),
    Layout(tp=2, cp=2, pp=2, pack=64),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_values_losses_and_gradients_are_those_of_hidden_states_and_a_linear_map(
    folder: Path, batch: Batch, layout: Layout
) -> None:
    """For every token, every row's last one and every tensor, the head's own among them."""
    config = layout.run(folder)
    values, scores, loss, gradients = directly(config, batch)
    answers = run(processes_of(config), judge, config, batch)
    ours, our_scores = collected(batch, answers)
    assert apart(ours, values)[1] < CLOSE
    assert apart(our_scores, scores)[1] < CLOSE
    for _, _, report, _, _ in answers:
        assert report.losses["value"] == pytest.approx(loss, rel=CLOSE)
        assert 0 < report.metrics["critic/vf_clipfrac"] < 1
    found = merged([answer[3] for answer in answers])
    assert found.keys() == gradients.keys()
    wrong = {name: apart(found[name], gradients[name]) for name in found}
    assert not {name: far for name, far in wrong.items() if far[1] > CLOSE}


def save_value_model(where: Rendezvous, config: RunConfig, batch: Batch, folder: str) -> Any:
    """A step on a known head, saved in both formats, and the step after."""
    worker = started(where, config, head="scalar")
    set_head(worker)
    worker.update(worker.split(batch), [LOSS])
    worker.save(f"{folder}/cheap")
    worker.save(f"{folder}/last", last=True)
    return state_and_step(worker, batch)


def state_and_step(worker: MegatronWorker, batch: Batch) -> Any:
    """Weights and moments, then those after a step, and its loss."""
    weights, of_optimizer = held(worker), dict(moments(worker))
    report = worker.update(worker.split(batch), [LOSS])
    return weights, of_optimizer if worker.speaks else {}, held(worker), report.loss


def restore_value_model(where: Rendezvous, config: RunConfig, batch: Batch, folder: str, head: str) -> Any:
    """Fresh processes."""
    worker = started(where, config, head=head)
    worker.restore(folder)
    return state_and_step(worker, batch)


def test_a_value_model_keeps_its_head_through_a_checkpoint(folder: Path, batch: Batch, tmp_path: Path) -> None:
    """Bit for bit under its layout, the same state under another; a model with another head is refused."""
    config = Layout(tp=2, pp=2).run(folder)
    here = run(4, save_value_model, config, batch, str(tmp_path))
    same = run(4, restore_value_model, Layout(tp=2, pp=2).run("null"), batch, str(tmp_path / "cheap"), "scalar")
    for ours, theirs in zip(same, here, strict=True):
        assert not any(unequal(ours[at], theirs[at]) for at in range(3))
        assert ours[3] == theirs[3]
    other = run(2, restore_value_model, Layout(cp=2).run("null"), batch, str(tmp_path / "last"), "scalar")
    for at in range(2):
        assert not unequal(merged([each[at] for each in other]), merged([each[at] for each in here]))
    assert "head.weight exp_avg_sq" in other[0][1]
    assert other[0][3] == pytest.approx(here[0][3], rel=1e-6)
    with pytest.raises(UserError, match="it holds a head for scalar, and this model has a head for tokens"):
        run(1, restore_value_model, Layout().run("null"), batch, str(tmp_path / "last"), "tokens")


def ask_for_values(where: Rendezvous, config: RunConfig, batch: Batch) -> None:
    """Of a worker that has none."""
    worker = started(where, config)
    with pytest.raises(HptError, match='a head over tokens, not one for values; start it with head="scalar"'):
        worker.scores(worker.split(batch))
    with pytest.raises(HptError, match="a head over tokens"):
        worker.values(worker.split(batch))


def test_a_language_model_is_not_asked_for_values(folder: Path, batch: Batch) -> None:
    """In one line that says how to get them."""
    run(1, ask_for_values, Layout().run(folder), batch)
