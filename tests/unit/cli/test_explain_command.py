"""`hpt explain`: the tables that it prints are those of the strategies, the credit and the losses."""

import json
import subprocess
import sys

import pytest

from hpt_megatron.algorithms.explain import explain
from hpt_megatron.config.algorithm import ADV_ESTIMATORS, POLICY_LOSSES
from hpt_megatron.config.files import groups
from hpt_megatron.config.load import load_run


def hpt(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "hpt_megatron", "explain", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def cases(*overrides, n=8):
    return explain(load_run(list(overrides)).algorithm, n).cases


def test_the_switch_imitates_at_the_gate_and_explores_above_it():
    table = cases("algorithm.switch_gate=2", "algorithm.switch_gate_off=3")
    assert [case.decision.arm for case in table] == ["imitate"] * 3 + ["off_policy"] + ["explore"] * 5
    assert [case.kept for case in table] == [0] * 4 + [8] * 5
    assert [case.demonstration for case in table[:3]] == [(1.0, 1.0)] * 3
    assert table[3].demonstration == pytest.approx((0.1, 0.5)), "off-policy RL weighs by the probability"
    assert (table[5].success, table[5].failure) == pytest.approx((0.375, -0.625))


def test_luffys_demonstration_gets_its_shaped_weight():
    """A pi c / (pi + c)^2 with c = 0.1, and A the credit of a right demonstration among k right rollouts of 7."""
    for k, case in enumerate(cases("algorithm=luffy")):
        earned = 1 - (k + 1) / 8
        assert case.demonstration == pytest.approx([earned * p * 0.1 / (p + 0.1) ** 2 for p in (0.1, 0.5)])
    assert len(cases("algorithm=luffy")) == 8


def test_soft_weighs_rollouts_and_demonstration_by_its_table():
    case = cases("algorithm=soft", n=7)[2]
    mix = case.decision.mix
    assert (mix.on, mix.off, mix.sft) == pytest.approx((0.25, 1.0, 0.25))
    credit = 1 - 2 / 7
    assert case.success == pytest.approx(0.25 * credit)
    assert case.demonstration == pytest.approx([p * credit + 0.25 for p in (0.1, 0.5)])


@pytest.mark.parametrize("estimator", ADV_ESTIMATORS)
def test_every_estimator_can_be_explained(estimator):
    table = cases(f"algorithm.adv_estimator={estimator}")
    assert table[4].success > table[4].failure, "a right rollout gets more than a wrong one"


OVER_PAIRS = {"dpo", "ipo", "simpo", "orpo", "kto", "rejection", "reward_model"}  # test_explained_pairs.py


@pytest.mark.parametrize("choice", sorted({*groups()["algorithm"]} - OVER_PAIRS))
def test_every_algorithm_names_the_four_parts_of_what_it_trains_with(choice):
    run = load_run([f"algorithm={choice}"])
    explanation = explain(run.algorithm, run.rollouts_per_prompt)
    assert len(explanation.cases) == explanation.n + 1
    assert explanation.components[0][1] in POLICY_LOSSES
    for _, _, parts in explanation.components:
        assert all((parts.mask, parts.reference, parts.advantage, parts.likelihood, parts.weight))


@pytest.mark.slow
def test_the_command_prints_what_is_computed():
    done = hpt("luffy")
    assert (done.returncode, done.stderr) == (0, "")
    assert "algorithm=luffy: no, credit grpo, normalize global" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()[:1].isdigit() and "blend" in line]
    assert len(rows) == 8
    assert rows[3][-2:] == ["0.125", "0.06944"]
    assert "A pi c / (pi + c)^2" in done.stdout
    assert "models: policy, no reference, no critic\n" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "models"),
    [
        ((), ["policy"]),
        (("algorithm.use_kl_loss=true", "algorithm.kl_loss_coef=0.1"), ["policy", "reference"]),
        (("algorithm.kl_ctrl.kl_coef=0.05", "algorithm.adv_estimator=gae"), ["policy", "reference", "critic"]),
        (("algorithm.use_kl_loss=true",), ["policy"]),  # with a coefficient of 0, which validation warns of
    ],
)
def test_a_reference_and_a_critic_are_loaded_only_where_something_asks_for_them(overrides, models):
    assert explain(load_run(list(overrides)).algorithm, 8).models == models


@pytest.mark.slow
def test_an_experiment_an_override_and_json_work_together():
    done = hpt("hpt-7b", "--json", "trainer.switch_gate=1")
    report = json.loads(done.stdout)
    assert [case["decision"]["arm"] for case in report["cases"]] == ["imitate"] * 2 + ["explore"] * 7


def test_an_unknown_name_is_one_line():
    done = hpt("lufy")
    assert done.returncode == 2
    assert "lufy" in done.stderr
    assert "Traceback" not in done.stderr
