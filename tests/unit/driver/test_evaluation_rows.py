"""From the rows of an evaluation to groups: what was not scored is no failure of the model."""

import torch
from test_balance import SAMPLES, prompts, rollouts

from hpt_megatron.config.load import load_run
from hpt_megatron.driver.loop.roles import Collected
from hpt_megatron.driver.loop.validation import grouped
from hpt_megatron.observe.pass_rates import Group


def test_a_response_that_was_not_scored_is_neither_a_response_nor_a_failure():
    batch = rollouts([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    valid = torch.tensor([True, True, False, True, False, False])
    collected = Collected(batch.with_rows(batch.rows.with_fields(valid=valid)))
    records = [prompt.record for prompt in prompts()]
    groups, counts = grouped(load_run([f"rollout.n_val={SAMPLES}"]), records, collected)
    assert groups == [Group("", (1.0, 0.0), (True, False)), Group("", (1.0,), (True,)), Group("", (), ())]
    assert counts == {"prompts": 3, "responses": 3, "not_scored": 3}
