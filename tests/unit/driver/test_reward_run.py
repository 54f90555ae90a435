"""A run as a reward model: what it must have been, and heads that somebody names and no model has."""

import json
from dataclasses import replace

import pytest

from hpt_megatron.config.load import load
from hpt_megatron.driver.loop.checkpoints import Checkpoints
from hpt_megatron.driver.loop.reward_run import RewardRun
from hpt_megatron.errors import UserError
from hpt_megatron.observe.record import MARKS, write_record


@pytest.fixture
def folder(tmp_path):
    """A run with one checkpoint, as the loop leaves it; its weights are not looked at here."""
    path = tmp_path / "rm"
    given = ["algorithm=reward_model", "algorithm.preference.heads=[helpful,safe]", f"trainer.run_dir={path}"]
    write_record(load(given).run, path)
    (path / MARKS).write_text(json.dumps({"chat": "a", "pictures": "b"}), encoding="utf-8")
    checkpoints = Checkpoints(path / "checkpoints", 1)
    state = {"statistics": {"safe": {"mean": 1.0, "std": 2.0, "count": 10}}}
    checkpoints.seal(checkpoints.begin(3), 3, state)
    return path


@pytest.mark.parametrize("named", ["", "checkpoints/step_3"])
def test_a_run_or_one_of_its_checkpoints_is_named(folder, named):
    found = RewardRun.of(str(folder / named))
    assert found.checkpoint == folder / "checkpoints" / "step_3" / "trainer"
    assert found.heads == ("helpful", "safe")
    assert found.statistics[0] is None
    assert (found.statistics[1].mean, found.statistics[1].std) == (1.0, 2.0)


def test_what_is_no_reward_model_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="is no run"):
        RewardRun.of(str(tmp_path))
    other = tmp_path / "other"
    write_record(load(["algorithm=dpo", f"trainer.run_dir={other}"]).run, other)
    with pytest.raises(UserError, match="trained no reward model"):
        RewardRun.of(str(other))


def test_another_tokenizer_is_refused_and_so_is_a_layout_that_does_not_fit(folder):
    found = RewardRun.of(str(folder))
    found.check({"chat": "a", "pictures": "b", "forbidden": "c"})
    with pytest.raises(UserError, match="another chat than the policy"):
        found.check({"chat": "x", "pictures": "b"})
    run = load(["algorithm=ppo"]).run
    assert found.under(run).model.path is None
    assert found.under(run).layout == run.layout
    with pytest.raises(UserError, match="does not fit"):
        found.under(replace(run, layout=replace(run.layout, tp=3)))


def test_heads_that_no_model_has_are_named(folder):
    found = [RewardRun.of(str(folder))]
    run = load(["algorithm=ppo", "reward.learned.heads=[{head: save, weight: 1.0}]"]).run
    with pytest.raises(UserError, match=r"reward.learned.heads: no reward model has a head 'save'; one of helpful"):
        RewardRun.check_heads(found, run.reward)
    given = ["algorithm=ppo", "reward.constraint.how=gate", "reward.constraint.component=learned/secure"]
    with pytest.raises(UserError, match=r"reward.constraint.component: no reward model has a head 'secure'"):
        RewardRun.check_heads(found, load(given).run.reward)
    RewardRun.check_heads(found, load(["algorithm=ppo"]).run.reward)
