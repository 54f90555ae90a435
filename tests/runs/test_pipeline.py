"""`hpt pipeline` with real stages: demonstrations, a reward model of two heads, PPO with four models; stopped half way.

The reward model stands on devices of its own; engine, critic and reference take turns on the policy's. What PPO is
paid, with a price on what is not right, is worked out again from what the models said.
"""

import json
import signal
import subprocess
import sys
import time
from statistics import fmean

import pytest
import torch
import yaml

from hpt_megatron.driver.loop.step_record import BEFORE, CREDITED
from hpt_megatron.protocol import batch_file
from hpt_megatron.recipes.replay import replay

pytestmark = pytest.mark.slow
ASKED = {
    "base": ["data.make=pref", "trainer.n_gpus_per_node=1", "layout=tp1", "trainer.total_epochs=null"],
    "stages": {
        "sft": {
            "rounds": 2,
            "set": ["experiment=tiny-sft", "trainer.total_training_steps=8", "trainer.test_freq=0"],
        },
        "reward": {
            "from": "sft",
            "set": [
                *("experiment=tiny-reward-model", "trainer.total_training_steps=80", "trainer.test_freq=80"),
                *("trainer.lr=5e-4", "algorithm.preference.heads=[right,short]"),
            ],
        },
        "ppo": {
            "from": "sft",
            "judged_by": ["reward"],
            "set": [
                *("experiment=tiny-ppo", "trainer.total_training_steps=3", "trainer.test_freq=0"),
                *("trainer.critic_warmup=1", "trainer.critic_lr=2e-3", "trainer.placement=colocated"),
                "trainer.record_freq=1",
                *("reward.constraint.how=lagrange", "reward.constraint.component=accuracy"),
                *("reward.constraint.at_least=0.9", "reward.constraint.rate=0.5"),
                *("reward.learned.devices=own", "reward.learned.rules_weight=0.5", "algorithm.kl_ctrl.kl_coef=0.1"),
                "reward.learned.heads=[{head: right, weight: 2.0}]",
            ],
        },
    },
}


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Its folder, after it was stopped behind the second stage and started again."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "mine.yaml").write_text(yaml.safe_dump(ASKED, sort_keys=False), encoding="utf-8")
    out = folder / "out"
    command = [sys.executable, "-m", "hpt_megatron", "pipeline", str(folder / "mine.yaml"), "--out", str(out)]
    with (folder / "first.txt").open("w") as said:
        first = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while first.poll() is None and not (out / "ppo.txt").is_file():
            time.sleep(0.2)
        time.sleep(2)
        first.send_signal(signal.SIGTERM)
        code = first.wait(120)
    told = (folder / "first.txt").read_text()
    assert code == 75, told
    assert "| reward | 80 |" in told, "what there is by then is in the table"
    before = {name: (out / name / "metrics.jsonl").stat().st_mtime_ns for name in ("sft_2", "reward")}
    again = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "sft_1: done before" in again.stdout
    assert "sft_2: done before" in again.stdout
    assert "reward: done before" in again.stdout
    assert before == {name: (out / name / "metrics.jsonl").stat().st_mtime_ns for name in before}
    return out


def test_each_stage_takes_what_the_one_before_it_made(out):
    runs = {name: json.loads((out / name / "run.json").read_text()) for name in ("sft_2", "reward", "ppo")}
    assert runs["sft_2"]["model"]["path"] == str(out / "sft_1" / "hub"), "a round begins with the one before"
    assert runs["reward"]["model"]["path"] == runs["ppo"]["model"]["path"] == str(out / "sft_2" / "hub")
    first, second = ([line["actor/loss"] for line in lines_of(out / f"sft_{n}" / "metrics.jsonl")] for n in (1, 2))
    assert second[0] < first[0], "it knows what the first round learned"
    assert runs["ppo"]["reward"]["learned"]["runs"] == [str(out / "reward")]
    assert (out / "sft_2" / "hub" / "model.safetensors").is_file()
    assert not (out / "reward" / "hub").exists(), "a reward model is no model of the hub"
    told = json.loads((out / "pipeline.json").read_text())
    assert {name: stage["steps"] for name, stage in told.items()} == {"sft_1": 8, "sft_2": 8, "reward": 80, "ppo": 3}


def test_the_reward_model_tells_pairs_that_it_has_not_seen(out):
    (last,) = lines_of(out / "reward" / "validation.jsonl")
    assert last["val/pairs/accuracy"] > 0.9
    assert last["val/pairs/auc"] > 0.9
    state = json.loads((out / "reward" / "checkpoints" / "step_80" / "manifest.json").read_text())["state"]
    statistics = state["statistics"]["right"]
    assert statistics["count"] == 512
    assert statistics["std"] > 0.1
    assert fmean(state["scores"][0]) == pytest.approx(statistics["mean"])
    assert "short" not in state["statistics"], "no pair was about the other head"


def test_ppo_is_paid_what_rules_and_model_say_less_the_distance_from_the_reference(out):
    steps = lines_of(out / "ppo" / "metrics.jsonl")
    assert len(steps) == 3
    assert steps[0]["kl/sequence"] == pytest.approx(0.0, abs=1e-5), "policy and reference begin as one"
    prices, missing = [], []
    for step in steps:
        own = lines_of(out / "ppo" / "learned" / f"train_{step['step']}.jsonl")
        assert len(own) == 16 * 8
        assert fmean(line["learned"] for line in own) == pytest.approx(step["reward/learned/mean"], abs=1e-5)
        assert all(line["learned"] == pytest.approx(2 * line["learned/right"], abs=1e-5) for line in own)
        rollouts = lines_of(out / "ppo" / "rollouts" / f"train_{step['step']}.jsonl")
        rules = {(line["uid"], line["sample"]): line["total"] for line in rollouts}
        price, right = step["constraint/price"], {key: float(score == 1.0) for key, score in rules.items()}
        names = [(line["uid"], line["sample"]) for line in own]
        paid = [0.5 * rules[name] + line["learned"] for name, line in zip(names, own, strict=True)]
        paid = [each + price * (right[name] - 0.9) for name, each in zip(names, paid, strict=True)]
        assert [line["score"] for line in own] == pytest.approx(paid, abs=1e-4)
        assert fmean(paid) == pytest.approx(step["reward/mean"], abs=1e-5)
        prices.append(price)
        missing.append(0.9 - step["constraint/mean"])
        less = step["critic/score/mean"] - 0.1 * step["kl/sequence"]
        assert step["critic/rewards/mean"] == pytest.approx(less, abs=1e-4)
        moved = {name.removeprefix("move_s/") for name in step if name.startswith("move_s/")}
        assert moved == {"policy", "critic", "reference", "reward model reward"}, "the engines want the devices"
        assert 0 < step["move_s/reference"] < step["timing_s/reference"]
    assert "actor/grad_norm" not in steps[0], "the first step is the critic's alone"
    assert steps[1]["actor/grad_norm"] > 0
    assert prices == pytest.approx([0.0, 0.5 * missing[0], 0.5 * (missing[0] + missing[1])], abs=1e-5)
    assert prices[2] > prices[1] > 0
    assert [step["critic/lr"] for step in steps] == pytest.approx([2e-4, 4e-4, 6e-4])
    assert [step["actor/lr"] for step in steps[1:]] == pytest.approx([1e-4, 2e-4]), "it begins after the critic"
    assert steps[0]["critic/vpred_mean"] == 0.0
    assert steps[2]["critic/vpred_mean"] != 0.0


def test_a_step_of_ppo_is_on_disk_with_all_that_it_was_made_of_and_is_worked_out_again(out):
    """Responses, log-probs of three models, values, scores, rewards, advantages and returns, row by row."""
    before, credited = (batch_file.load(out / "ppo" / "steps" / "step_2" / name).rows for name in (BEFORE, CREDITED))
    assert {"ids", "trained", "rollout_logp", "old_logp", "ref_logp", "value"} <= {*before.tokens}
    assert {"score", "reward_learned", "reward_learned/right", "reward_accuracy"} <= {*before.fields}
    assert {"reward", "credit", "returns"} <= {*credited.tokens}
    trained = credited.tokens["trained"]
    kl = (before.tokens["old_logp"] - before.tokens["ref_logp"])[trained]
    last = credited.last(trained)
    expected = -0.1 * kl
    paid = credited.tokens["reward"].clone()
    paid[last] -= credited.fields["score"]
    assert torch.allclose(paid[trained], expected, atol=1e-5)
    lines = replay(out / "ppo", 2, with_loss=False)
    assert all(line.agrees is not False for line in lines), lines
    assert sum(line.agrees is True for line in lines) >= 3
