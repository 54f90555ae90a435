"""A loop of one's own: other scores for rollouts, and runs that have none.

Not covered: roles at work; `tests/runs/test_recipes.py` takes a step of `examples/own_loop.py`.
"""

import math

import pytest
import torch

from hpt_megatron.driver.loop.roles import Collected
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.rows import Rows
from hpt_megatron.recipes.open_loop import open_loop, rescored

ROWS = Rows.from_lists(
    {"ids": [[1], [2], [3]]}, prompt=[0, 0, 1], sample=[0, 1, 0], score=[0.0, 0.0, 1.0], valid=[True, True, False]
)


def test_scores_take_the_place_of_the_rewards_and_what_is_no_number_does_not_count():
    rows = rescored(Collected(Batch.of_text(ROWS)), [0.25, math.nan, 0.5]).batch.rows
    assert rows.fields["score"].tolist() == [0.25, 0.0, 0.0]
    assert rows.fields["valid"].tolist() == [True, False, False], "what was not valid stays so"
    assert torch.equal(rows.tokens["ids"], ROWS.tokens["ids"])


def test_every_row_has_a_score():
    with pytest.raises(UserError, match="2 scores for 3 rows"):
        rescored(Collected(Batch.of_text(ROWS)), [0.0, 1.0])


@pytest.mark.parametrize("given", [["experiment=tiny-dpo"], ["experiment=tiny-sft"]])
def test_a_run_without_rollouts_is_refused_before_anything_starts(given, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="has no rollouts to score"), open_loop([*given, f"trainer.run_dir={folder}"]):
        pass
    assert not folder.exists()
