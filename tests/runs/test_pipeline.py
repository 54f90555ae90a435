"""`hpt pipeline` with real stages: demonstrations, two reward models of two heads, PPO with five models, rounds of DPO.

It is stopped half way. The reward models stand on devices of their own under PPO; engine, critic and reference take
turns on the policy's. What PPO is paid, with a price on what is not right, is worked out again from what the models
said; it learns from them. Rounds of DPO are on pairs of rollouts that a reward model alone tells apart.
"""

import json
import signal
import subprocess
import sys
import time
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from hpt_megatron.cli.main import main
from hpt_megatron.driver.loop.step_record import BEFORE, CREDITED
from hpt_megatron.protocol import batch_file
from hpt_megatron.recipes.replay import replay

pytestmark = pytest.mark.slow
STEPS, RATE, HORIZON, ROWS = 12, 0.02, 1024, 16 * 8


def asked(pairs):
    """The file; a pair is about being right or about being short."""
    reward = [
        *("experiment=tiny-reward-model", "trainer.lr=5e-4", "algorithm.preference.heads=[right,short]"),
        *(f"data.train_files=[{pairs}/train.parquet]", f"data.val_files=[{pairs}/val.parquet]"),
    ]
    ppo = [
        *("experiment=tiny-ppo", f"trainer.total_training_steps={STEPS}", "trainer.test_freq=0"),
        *("trainer.critic_warmup=1", "trainer.critic_lr=2e-3", "trainer.placement=colocated"),
        *("reward.constraint.how=lagrange", "reward.constraint.component=accuracy"),
        *("reward.constraint.at_least=0.9", f"reward.constraint.rate={RATE}", "trainer.record_freq=1"),
        *("algorithm.kl_ctrl.type=adaptive", "algorithm.kl_ctrl.kl_coef=0.1", "algorithm.kl_ctrl.target_kl=0.5"),
        *(f"algorithm.kl_ctrl.horizon={HORIZON}", "reward.learned.devices=own", "reward.learned.rules_weight=0.1"),
        *(
            "reward.learned.ensemble=min",
            "reward.learned.heads=[{head: right, weight: 2.0}, {head: short, weight: 0.5}]",
        ),
    ]
    online = ["experiment=tiny-online-dpo", "trainer.total_training_steps=2", "reward.learned.rules_weight=0.0"]
    return {
        "base": ["data.make=pref", "trainer.n_gpus_per_node=1", "layout=tp1", "trainer.total_epochs=null"],
        "stages": {
            "sft": {"set": ["experiment=tiny-sft", "trainer.total_training_steps=16", "trainer.test_freq=0"]},
            "reward": {
                "from": "sft",
                "set": [*reward, "trainer.total_training_steps=80", "trainer.test_freq=80"],
            },
            "second": {
                "from": "sft",
                "set": [*reward, "trainer.total_training_steps=40", "trainer.test_freq=0", "trainer.seed=2"],
            },
            "ppo": {"from": "sft", "judged_by": ["reward", "second"], "set": ppo},
            "online": {
                "rounds": 2,
                "from": "sft",
                "judged_by": ["reward"],
                "set": [*online, "trainer.test_freq=0"],
            },
        },
    }


def pairs_with_heads(folder):
    """Those of the embedded task, told apart by what the rejected side does wrong."""
    assert main(["data", "make", "pref", str(folder)]) == 0
    for name in ("train", "val"):
        path = folder / f"{name}.parquet"
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            row["extra_info"]["head"] = "short" if row["extra_info"]["domain"] == "long" else "right"
        pq.write_table(pa.Table.from_pylist(rows), path)
    return folder


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Its folder, after it was stopped behind the third stage and started again."""
    folder = tmp_path_factory.mktemp("pipeline")
    told = asked(pairs_with_heads(folder / "pairs"))
    (folder / "mine.yaml").write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
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
    before = {name: (out / name / "metrics.jsonl").stat().st_mtime_ns for name in ("sft", "reward", "second")}
    again = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert all(f"{name}: done before" in again.stdout for name in before)
    assert before == {name: (out / name / "metrics.jsonl").stat().st_mtime_ns for name in before}
    return out


def test_each_stage_takes_what_the_one_before_it_made(out):
    names = ("sft", "reward", "second", "ppo", "online_1", "online_2")
    runs = {name: json.loads((out / name / "run.json").read_text()) for name in names}
    assert {runs[name]["model"]["path"] for name in names[1:5]} == {str(out / "sft" / "hub")}
    assert runs["ppo"]["reward"]["learned"]["runs"] == [str(out / "reward"), str(out / "second")]
    assert runs["online_2"]["model"]["path"] == str(out / "online_1" / "hub"), "a round begins with the one before"
    assert (out / "sft" / "hub" / "model.safetensors").is_file()
    assert not (out / "reward" / "hub").exists(), "a reward model is no model of the hub"
    told = json.loads((out / "pipeline.json").read_text())
    assert [stage["steps"] for stage in told.values()] == [16, 80, 40, STEPS, 2, 2]
    assert tuple(told) == names


def test_the_reward_model_tells_pairs_that_it_has_not_seen_by_both_heads(out):
    (last,) = lines_of(out / "reward" / "validation.jsonl")
    assert last["val/pairs/accuracy"] > 0.9
    assert last["val/pairs/auc"] > 0.8
    assert min(last["val/pairs/accuracy/long"], last["val/pairs/accuracy/wrong"]) > 0.8, "each is a head's own"
    state = json.loads((out / "reward" / "checkpoints" / "step_80" / "manifest.json").read_text())["state"]
    for head, scores in zip(("right", "short"), state["scores"], strict=True):
        statistics = state["statistics"][head]
        assert statistics["count"] == 512
        assert statistics["std"] > 0.1
        assert fmean(scores) == pytest.approx(statistics["mean"])


def test_ppo_is_paid_what_rules_and_models_say_less_the_distance_from_the_reference(out):
    steps = lines_of(out / "ppo" / "metrics.jsonl")
    assert len(steps) == STEPS
    assert [step["kl/sequence"] for step in steps[:2]] == pytest.approx([0.0, 0.0], abs=1e-5), (
        "policy and reference begin as one, and the first step is the critic's alone"
    )
    price, coefficient = 0.0, 0.1
    for step in steps:
        own = lines_of(out / "ppo" / "learned" / f"train_{step['step']}.jsonl")
        assert len(own) == ROWS
        assert fmean(line["learned"] for line in own) == pytest.approx(step["reward/learned/mean"], abs=1e-5)
        means = [2 * line["learned/right"] + 0.5 * line["learned/short"] for line in own]
        below = [mean - line["learned"] for mean, line in zip(means, own, strict=True)]
        assert min(below) > -1e-5, "the least of the models"
        assert fmean(below) == pytest.approx(step["reward/disagreement"], abs=1e-5), "of two, as far below the mean"
        rollouts = lines_of(out / "ppo" / "rollouts" / f"train_{step['step']}.jsonl")
        rules = {(line["uid"], line["sample"]): line["total"] for line in rollouts}
        right = {key: float(score == 1.0) for key, score in rules.items()}
        names = [(line["uid"], line["sample"]) for line in own]
        paid = [0.1 * rules[name] + line["learned"] for name, line in zip(names, own, strict=True)]
        paid = [each + price * (right[name] - 0.9) for name, each in zip(names, paid, strict=True)]
        assert [line["score"] for line in own] == pytest.approx(paid, abs=1e-4)
        assert fmean(paid) == pytest.approx(step["reward/mean"], abs=1e-5)
        assert step["constraint/price"] == pytest.approx(price, abs=1e-5)
        price = max(0.0, price + RATE * (0.9 - step["constraint/mean"]))
        assert step["critic/kl_coeff"] == pytest.approx(coefficient, rel=1e-5), "by the KL of the step before"
        less = step["critic/score/mean"] - coefficient * step["kl/sequence"]
        assert step["critic/rewards/mean"] == pytest.approx(less, abs=1e-4)
        coefficient *= 1 + min(max(step["kl/sequence"] / 0.5 - 1, -0.2), 0.2) * ROWS / HORIZON
        moved = {name.removeprefix("move_s/") for name in step if name.startswith("move_s/")}
        models = {"policy", "critic", "reference", "reward model reward", "reward model second"}
        assert moved == models, "the engines want the devices"
        assert 0 < step["move_s/reference"] < step["timing_s/reference"]
    assert "actor/grad_norm" not in steps[0]
    assert steps[1]["actor/grad_norm"] > 0
    assert [step["critic/lr"] for step in steps[:3]] == pytest.approx([2e-4, 4e-4, 6e-4])
    assert [step["actor/lr"] for step in steps[1:3]] == pytest.approx([1e-4, 2e-4]), "it begins after the critic"
    assert steps[0]["critic/vpred_mean"] == 0.0
    assert steps[2]["critic/vpred_mean"] != 0.0


def test_ppo_learns_what_the_reward_models_want_and_not_at_the_expense_of_what_is_right(out):
    """The second half of the steps beside the first; a step is 128 rollouts."""
    steps = lines_of(out / "ppo" / "metrics.jsonl")
    for name, gain in (("reward/learned/mean", 0.2), ("reward/component/accuracy", -0.06)):
        curve = [step[name] for step in steps]
        assert fmean(curve[STEPS // 2 :]) > fmean(curve[: STEPS // 2]) + gain, name


def test_rounds_of_dpo_take_the_best_and_the_worst_by_the_reward_model(out):
    """Rules are paid nothing; the table has a line for each round."""
    for name in ("online_1", "online_2"):
        for step in lines_of(out / name / "metrics.jsonl"):
            own = lines_of(out / name / "learned" / f"train_{step['step']}.jsonl")
            of_prompts = {line["uid"]: [each["score"] for each in own if each["uid"] == line["uid"]] for line in own}
            assert all(line["score"] == pytest.approx(line["learned"], abs=1e-5) for line in own)
            assert step["reward/best_of_n"] == pytest.approx(fmean(max(each) for each in of_prompts.values()), abs=1e-5)
            assert step["pairs/count"] == sum(max(each) > min(each) for each in of_prompts.values()) > 0
    table = (out / "pipeline.md").read_text(encoding="utf-8")
    assert table.count("reward/mean") >= 2
    assert "| online_1 |" in table
    assert "| online_2 |" in table


def test_a_step_of_ppo_is_on_disk_with_all_that_it_was_made_of_and_is_worked_out_again(out):
    """Responses, log-probs of three models, values, scores, rewards, advantages and returns, row by row."""
    before, credited = (batch_file.load(out / "ppo" / "steps" / "step_2" / name).rows for name in (BEFORE, CREDITED))
    assert {"ids", "trained", "rollout_logp", "old_logp", "ref_logp", "value"} <= {*before.tokens}
    assert {"score", "reward_learned", "reward_learned/right", "reward_learned/short", "reward_accuracy"} <= {
        *before.fields
    }
    assert {"reward", "credit", "returns"} <= {*credited.tokens}
    trained = credited.tokens["trained"]
    kl = (before.tokens["old_logp"] - before.tokens["ref_logp"])[trained]
    last = credited.last(trained)
    expected = -lines_of(out / "ppo" / "metrics.jsonl")[1]["critic/kl_coeff"] * kl
    paid = credited.tokens["reward"].clone()
    paid[last] -= credited.fields["score"]
    assert torch.allclose(paid[trained], expected, atol=1e-5)
    lines = replay(out / "ppo", 2, with_loss=False)
    assert all(line.agrees is not False for line in lines), lines
    assert sum(line.agrees is True for line in lines) >= 3
