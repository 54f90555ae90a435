"""What is told of a step's decisions: records by prompt, means over prompts, shares of rows."""

import doctest
import json

import pytest
import torch

from hpt_megatron.algorithms.routing import record
from hpt_megatron.algorithms.routing.decision import Outcome, Routing, route
from hpt_megatron.algorithms.routing.record import composition, metrics, records
from hpt_megatron.algorithms.routing.soft import Soft, soft_table
from hpt_megatron.algorithms.routing.switch import Switch
from hpt_megatron.protocol.rows import Rows

GOLDEN = [Outcome(8, k, prompt=f"p{k}") for k in (0, 1, 3, 8)]


def rows_of(*kinds):
    """One row of one token for each (demonstration?, on, off, sft)."""
    demo, on, off, sft = zip(*kinds, strict=True) if kinds else ((), (), (), ())
    return Rows(
        torch.ones(len(kinds), dtype=torch.int64),
        {},
        {
            "off": torch.tensor(demo, dtype=torch.bool),
            "mix_on": torch.tensor(on),
            "mix_off": torch.tensor(off),
            "mix_sft": torch.tensor(sft),
        },
    )


def test_the_example_of_the_module_holds():
    assert doctest.testmod(record) == (0, 4)


def test_a_record_says_step_prompt_counts_and_decision_and_differs_within_a_batch():
    lines = records(7, GOLDEN, route(Switch(gate=0, gate_off=2), GOLDEN, 7))
    assert [(line["uid"], line["n"], line["successes"], line["decision"]) for line in lines] == [
        ("p0", 8, 0, "imitate"),
        ("p1", 8, 1, "off_policy"),
        ("p3", 8, 3, "explore"),
        ("p8", 8, 8, "explore"),
    ]
    assert json.loads(json.dumps(lines[1])) == {
        "step": 7,
        "uid": "p1",
        "n": 8,
        "successes": 1,
        "decision": "off_policy",
        "on": 0.0,
        "off": 1.0,
        "sft": 0.0,
        "removed": 8,
        "demonstration": True,
        "mean_reward": None,
    }


def test_the_means_are_those_of_the_papers_alpha_and_beta():
    found = metrics(GOLDEN, route(Switch(gate=0, gate_off=2), GOLDEN, 0))
    histogram = {int(name.rpartition("/")[2]): found.pop(name) for name in list(found) if "/successes/" in name}
    assert histogram == {0: 1.0, 1: 1.0, 2: 0.0, 3: 1.0, 4: 0.0, 5: 0.0, 6: 0.0, 7: 0.0, 8: 1.0}
    assert found == {
        "uni/mean_p": 0.375,
        "uni/mean_alpha": 0.5,
        "uni/mean_beta": 0.25,
        "uni/mean_off": 0.25,
        "uni/prompts_explore": 2.0,
        "uni/prompts_imitate": 1.0,
        "uni/prompts_off_policy": 1.0,
        "uni/without_target": 0.0,
        "uni/without_rollout": 0.0,
    }
    soft = metrics([Outcome(7, 2)], route(Soft(*soft_table("published_0")[:1], shifted=True), [Outcome(7, 2)], 0))
    assert (soft["uni/mean_alpha"], soft["uni/mean_off"], soft["uni/mean_beta"]) == (0.25, 1.0, 0.25)


def test_prompts_that_could_not_be_used_are_counted_and_make_no_rate():
    outcomes = [Outcome(0, 0), Outcome(8, 0, has_target=False), Outcome(8, 4)]
    found = metrics(outcomes, route(Switch(), outcomes, 0, "drop"))
    assert found["uni/mean_p"] == 0.25
    assert (found["uni/prompts_skipped"], found["uni/without_target"], found["uni/without_rollout"]) == (2.0, 1.0, 1.0)
    assert metrics([], Routing([])) == {"uni/without_target": 0.0, "uni/without_rollout": 0.0}


@pytest.mark.parametrize(("on", "demos", "ratio"), [(24, 1, 0.04), (16, 2, 1 / 9), (28, 4, 0.125)])
def test_the_share_of_demonstrations_is_the_published_one(on, demos, ratio):
    found = composition(rows_of(*[(False, 1.0, 0.0, 0.0)] * on, *[(True, 0.0, 0.0, 1.0)] * demos))
    assert found["on_off_metrics/off_example_ratio"] == pytest.approx(ratio)
    assert found["uni/sft_data_ratio"] == pytest.approx(ratio)


def test_the_three_shares_add_up_to_one_and_a_row_with_two_losses_counts_in_parts():
    """A blend weighs its rollouts too, and what is trained by nothing (a greedy baseline) is no part of it."""
    rows = rows_of((False, 0.5, 1.0, 0.25), (True, 0.5, 1.5, 0.5), (True, 0.0, 0.0, 1.0), (False, 0.0, 0.0, 0.0))
    found = composition(rows)
    shares = [found[f"uni/{kind}_data_ratio"] for kind in ("on", "off", "sft")]
    assert shares == pytest.approx([1 / 3, 0.75 / 3, 1.25 / 3])
    assert sum(shares) == pytest.approx(1.0)
    assert composition(rows_of((False, 0.0, 0.0, 0.0))) == composition(rows_of()) == {}
