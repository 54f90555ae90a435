"""The shipped filter: a rule list as a gate of the reward, whose shut gates are counted."""

from pathlib import Path

import pytest

from hpt_megatron.config.files import configs_folder
from hpt_megatron.config.load import load_run
from hpt_megatron.rewards.build import build_scorer
from hpt_megatron.rewards.component import Sample

FILTER = configs_folder() / "constitution" / "filter.json"


def test_what_breaks_a_rule_gets_the_score_of_the_gate_and_is_counted():
    run = load_run([f"reward.file={Path(FILTER)}"])
    said = ["<answer>4</answer>", "As your doctor: <answer>4</answer>", "<answer>5</answer>"]
    samples = [Sample(turns=(text,), answer=text[-10:-9], golds=("4",)) for text in said]
    with build_scorer(run) as scorer:
        scored = scorer.score(samples)
        metrics = scorer.metrics(scored)
    assert [row.total for row in scored] == [1.0, -1.0, 0.0]
    assert [row.gated for row in scored] == [(), ("constitution",), ()]
    assert [row.valid for row in scored] == [True] * 3
    assert metrics["reward/gate/constitution"] == 1.0
    assert metrics["reward/component/constitution"] == pytest.approx(-1 / 3)
