"""Reward models with several heads, and a critic that is a head on the policy's trunk: numbers and every gradient.

Scores against transformers' last hidden states with a linear map; a shared trunk against policy and critic apart,
whose gradients it must add up. Real processes, the small model, in one process and in layouts.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run
from small_vl import Layout, folder_of, merged, processes_of, small_batch, started
from torch import Tensor
from torch.nn import functional

from hpt_megatron.algorithms.objective.score import Score
from hpt_megatron.algorithms.objective.sft import Sft
from hpt_megatron.algorithms.objective.value import Value
from hpt_megatron.config.run import RunConfig
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
HEADS = ("helpful", "safe")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain language model's checkpoint."""
    return folder_of(tmp_path_factory.mktemp("model"))


def known(numbers: int, hidden: int) -> tuple[Tensor, Tensor]:
    """A head that is not zero, the same in every process."""
    generator = torch.Generator().manual_seed(5)
    return 0.3 * torch.randn(numbers, hidden, generator=generator), torch.randn(numbers, generator=generator)


def set_head(worker: MegatronWorker) -> None:
    weight, bias = known(worker.numbers, worker.run.model.hidden_size)
    for name, param in parameters_of(worker.models):
        if name.startswith("head."):
            param.data.copy_(weight if name.endswith("weight") else bias)


def with_heads(config: RunConfig) -> RunConfig:
    preference = replace(config.algorithm.preference, loss="bradley_terry", heads=HEADS)
    return replace(config, algorithm=replace(config.algorithm, preference=preference))


def rows(config: RunConfig) -> Batch:
    """Rows with the weights of a loss over pairs at their ends, of a value and of imitation."""
    batch = small_batch(config)
    rows, generator = batch.rows, torch.Generator().manual_seed(6)
    used = rows.tokens["weight_rl"] != 0
    ends = last_tokens(rows)
    score = torch.zeros(rows.num_tokens).index_put((ends,), torch.randn(rows.num_rows, generator=generator))
    drawn = {name: torch.randn(rows.num_tokens, generator=generator) for name in ("old_value", "returns")}
    spread = {name: torch.where(used, torch.rand(rows.num_tokens, generator=generator), 0.0) for name in "vs"}
    head = torch.arange(rows.num_rows) % len(HEADS)
    kept = {name: column for name, column in rows.tokens.items() if not name.startswith("weight_")}
    tokens = {**kept, **drawn, "head": rows.per_token(head), "weight_score": score}
    tokens |= {"weight_value": spread["v"], "weight_sft": spread["s"]}
    return replace(batch, rows=replace(rows, tokens=tokens, fields={**rows.fields, "row": torch.arange(rows.num_rows)}))


def judged(where: Rendezvous, config: RunConfig, batch: Batch) -> Any:
    """Scores by row and all gradients of a step on them."""
    worker = started(where, config, head="scalar")
    set_head(worker)
    parts = worker.split(batch)
    scores = [(part.rows.fields["row"], said) for part, said in zip(parts, worker.scores(parts), strict=True)]
    worker.accumulate(parts, [Score()])
    gradients = {name: gradient.clone() for name, gradient in worker.gradients()}
    return scores, gradients if worker.speaks else {}


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2), Layout(cp=2)], ids=lambda layout: layout.name)
def test_each_row_is_judged_and_trained_by_its_own_head(folder: Path, layout: Layout) -> None:
    """The loss is minus the weighted scores, each of the head that the row is about."""
    config = with_heads(layout.run(folder))
    batch = rows(config)
    answers = run(processes_of(config), judged, config, batch)
    network = load_reference(str(folder))
    network.get_input_embeddings().padding_idx = None
    weight, bias = (each.requires_grad_() for each in known(len(HEADS), config.model.hidden_size))
    expected = []
    places = (last_tokens(batch.rows) - batch.rows.starts).tolist()
    for row, ids in enumerate(torch.split(batch.rows.tokens["ids"], batch.rows.lengths.tolist())):
        shown = _pictures(network, config.model, batch, row, ids)
        hidden = network.model(input_ids=ids[None], use_cache=False, **shown).last_hidden_state[0]
        expected.append(functional.linear(hidden[places[row]], weight, bias))
    scores = torch.stack(expected)
    head = torch.arange(len(scores)) % len(HEADS)
    of_row = batch.rows.tokens["weight_score"][last_tokens(batch.rows)]
    (-(of_row * scores.gather(1, head[:, None])[:, 0]).sum()).backward()
    gradients = {canonical(name): each.grad for name, each in network.named_parameters() if each.grad is not None}
    gradients |= {"head.weight": weight.grad, "head.bias": bias.grad}
    found = torch.zeros_like(scores)
    for said, _ in answers:
        for place, numbers in said:
            found[place] = numbers
    assert apart(found, scores.detach())[1] < CLOSE
    ours = merged([each[1] for each in answers])
    for name in gradients.keys() & ours.keys():
        assert apart(ours[name], gradients[name])[1] < CLOSE, name
    assert {"head.weight", "head.bias"} < gradients.keys() & ours.keys()
    assert len(gradients.keys() & ours.keys()) > 20
    assert all(float(ours["head.weight"][number].abs().max()) > 0 for number in range(2))


def gradients_of(where: Rendezvous, config: RunConfig, batch: Batch, head: str) -> Any:
    """Of the loss that a head has: imitation, values, or both."""
    worker = started(where, config, head=head)
    set_head(worker)
    components = {"tokens": [Sft()], "scalar": [Value()], "both": [Sft(), Value()]}[head]
    parts = worker.split(batch)
    said = worker.values(parts) if head != "tokens" else []
    logp = worker.log_probs(parts) if head != "scalar" else []
    report = worker.accumulate(parts, components)
    gradients = {name: gradient.clone() for name, gradient in worker.gradients()}
    return gradients if worker.speaks else {}, dict(report.losses), said, [each["logp"] for each in logp]


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2), Layout(pp=2)], ids=lambda layout: layout.name)
def test_a_shared_trunk_has_the_gradients_of_policy_and_critic_together(folder: Path, layout: Layout) -> None:
    """And says what each of them says."""
    config = layout.run(folder)
    batch = rows(config)
    both, policy, critic = (
        run(processes_of(config), gradients_of, config, batch, head) for head in ("both", "tokens", "scalar")
    )
    for at in range(len(both)):
        for ours, theirs in zip(both[at][2], critic[at][2], strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)
        for ours, theirs in zip(both[at][3], policy[at][3], strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)
        assert both[at][1]["sft"] == pytest.approx(policy[at][1]["sft"], rel=CLOSE)
        assert both[at][1]["value"] == pytest.approx(critic[at][1]["value"], rel=CLOSE)
    together, one, other = (merged([each[0] for each in answers]) for answers in (both, policy, critic))
    assert together.keys() == one.keys() | other.keys()
    for name, gradient in together.items():
        expected = sum(each[name] for each in (one, other) if name in each)
        assert apart(gradient, expected)[1] < CLOSE, name
