"""A tied matrix has a copy on the first and on the last stage of a pipeline; frozen, both stand still.

Real processes on gloo. Not covered: other parts that are frozen, which the comparisons of whole models cover.
"""

from typing import Any

import pytest
from processes import run

from hpt_megatron.config.load import load
from hpt_megatron.embedded.random_folder import write_random
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.mcore.model.named import parameters_of
from hpt_megatron.mcore.worker import MegatronWorker
from hpt_megatron.parity.rows import components, random_batch

pytestmark = pytest.mark.slow

PIPELINE = ["model=tiny", "layout.tp=1", "layout.pp=2", "trainer.dtype=fp32"]


def step(where: Rendezvous, overrides: list[str]) -> dict[str, tuple[bool, bool]]:
    """One optimizer step; of every parameter here whether it is trained, and whether it has moved."""
    settings = load(overrides).run
    worker = MegatronWorker(settings)
    worker.start(where)
    before = {name: param.detach().clone() for name, param in parameters_of(worker.models)}
    report = worker.update(worker.split(random_batch(settings.model, 1)), components())
    assert not report.skipped
    return {
        name: (param.requires_grad, bool((param != before[name]).any())) for name, param in parameters_of(worker.models)
    }


def test_a_frozen_tied_matrix_stands_still_on_both_ends_of_a_pipeline(tmp_path: Any) -> None:
    """Were one copy trained, the two stages would wait for each other in the exchange of its gradient."""
    model = load(["model=tiny"]).run.model
    write_random(model, tmp_path)
    frozen = "trainer.freeze=['lm_head.weight']"
    first, last = run(2, step, [*PIPELINE, f"model.path={tmp_path}", frozen])
    assert first.pop("embedding.word_embeddings.weight") == (False, False)
    assert last.pop("output_layer.weight") == (False, False)
    assert {trained for told in (first, last) for trained, _ in told.values()} == {True}
    assert any(moved for _, moved in first.values())
    assert any(moved for _, moved in last.values())
