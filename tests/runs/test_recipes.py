"""Every recipe, two steps each, on one trainer and one engine: the rows that it trains are those that it stands for.

Real Megatron, vLLM and Ray, one process for each role. The model has first imitated until some of its rollouts are
right; what is held against each recipe is read from the rows that reach the trainer. Some also learn, on a task of
text; HPT does so in the quickstart, losses over files in `test_preferences.py`.
"""

from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from itertools import count
from pathlib import Path
from statistics import fmean

import pytest
import torch

from hpt_megatron.config.load import load_run
from hpt_megatron.data.build import build_sampler, train_prompts
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.preference import PreferenceLoop
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.driver.loop.supply import Supply
from hpt_megatron.observe.step import Step
from hpt_megatron.recipes.files import with_files
from hpt_megatron.rewards.turns import first_action
from hpt_megatron.rollout.engine.forbidden import forbidden_ids

pytestmark = pytest.mark.slow
WARM_UP, BATCH, ROLLOUTS, TAUGHT = 45, 16, 4, 16
EVERY_ROLE = ["algorithm.adv_estimator=gae", "algorithm.use_kl_loss=true", "algorithm.kl_loss_coef=0.001"]
ROOT = Path(__file__).parents[2]
VERSIONS = count()
GIVEN = [
    *(f"data.train_batch_size={BATCH}", f"trainer.ppo_mini_batch_size={BATCH}"),
    *(f"rollout.n={ROLLOUTS}", f"rollout.n_verify={ROLLOUTS}", "trainer.lr_warmup_steps=5"),
    *("trainer.total_epochs=null", "trainer.total_training_steps=100", "rollout.max_num_seqs=128"),
    *("layout=tp1", "trainer.n_gpus_per_node=1", "data.make=count"),
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Roles of the embedded default after some steps of imitation, and its prompts."""
    from hpt_megatron.driver.ray.start import open_roles

    folder = tmp_path_factory.mktemp("recipes")
    run = with_files(load_run([*GIVEN, *EVERY_ROLE, f"trainer.sft_warmup_steps={WARM_UP}"]), folder)
    chat = Chat.open(run.model.path)
    prompts = train_prompts(run.data, chat, PictureRules.of_folder(run.model.path))
    with open_roles(run, forbidden_ids(chat, run.model.vocab_size), folder) as roles:
        roles.policy.save(folder / "begin", {}, True)
        plain = replace(run, algorithm=load_run(GIVEN).algorithm)
        alone = replace(roles, critic=None, reference=None)
        loop = RlLoop(plain, alone, Algorithm(plain), Supply(prompts, build_sampler(run.data, 1, prompts)))
        for number in range(1, WARM_UP + 1):
            loop.step(number, Step(number))
        yield run, roles, prompts, folder / "begin"


class Seen:
    """The policy, with what it was given kept beside; everything is passed on."""

    def __init__(self, policy):
        self.policy, self.batches, self.reports, self.asked = policy, [], [], 0

    def log_probs(self, batch):
        self.asked += 1
        return self.policy.log_probs(batch)

    def update(self, batch, components):
        self.batches.append(batch)
        self.reports.append(self.policy.update(batch, components))
        return self.reports[-1]

    def values(self, batch):
        return self.policy.values(batch)


def stepped(parts, name, *more, steps=1):
    """Steps of a recipe on the shared roles."""
    base, roles, prompts = parts[:3]
    own = load_run([f"experiment=tiny-{name}", *GIVEN, *more])
    run = replace(own, model=base.model, data=base.data)
    policy = Seen(roles.policy)
    own_roles = replace(roles, policy=policy, critic=roles.critic if name == "ppo" else None)
    kind = RlLoop if run.algorithm.preference.loss is None else PreferenceLoop
    loop = kind(run, own_roles, Algorithm(run), Supply(prompts, build_sampler(run.data, 7, prompts)))
    loop.version = f"weights {next(VERSIONS)}"  # the engine has those before another recipe's last step
    logs = []
    for number in range(WARM_UP + 1, WARM_UP + 1 + steps):
        logs.append(Step(number))
        loop.step(number, logs[-1])
        loop.version = f"weights {next(VERSIONS)}"
    return policy, [log.metrics() for log in logs], logs


def weights(policy, name):
    return torch.cat([batch.rows.tokens[f"weight_{name}"] for batch in policy.batches])


def check(policy, told):
    assert not any(report.skipped for report in policy.reports)
    assert all(report.grad_norm > 0 for report in policy.reports)
    assert told["critic/score/max"] == 1.0, "some rollout is right, or nothing here means anything"
    assert 0 < told["correction/abs_gap"] < 0.01, "engine and trainer agree about what was sampled"


def test_the_switch_imitates_where_nothing_is_right_and_explores_elsewhere(parts):
    policy, (told,), (log,) = stepped(parts, "hpt")
    check(policy, told)
    arms = {record["uid"]: record["decision"] for record in log.records}
    assert set(arms.values()) == {"imitate", "explore"}
    assert told["batch/demonstrations"] == sum(arm == "imitate" for arm in arms.values())
    assert float(weights(policy, "sft").sum()) == pytest.approx(1.0)
    assert float(weights(policy, "rl").sum()) == pytest.approx(1.0)
    assert policy.asked == 0, "one update needs no log-probs before it"


def test_soft_blends_by_its_table(parts):
    policy, (told,), (log,) = stepped(parts, "soft")
    check(policy, told)
    assert {record["decision"] for record in log.records} <= {"imitate", "explore", "blend"}
    assert told["uni/mean_beta"] > 0
    assert told["batch/demonstrations"] > 0


def test_adaptive_moves_its_gate(parts):
    policy, (told,), (log,) = stepped(parts, "adaptive")
    check(policy, told)
    assert len(log.records) == BATCH


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce_plus_plus"])
def test_pure_rl_trains_rollouts_alone(parts, name):
    policy, (told,), _ = stepped(parts, name)
    check(policy, told)
    assert told["uni/on_data_ratio"] == 1.0
    assert sum(batch.rows.num_rows for batch in policy.batches) == BATCH * ROLLOUTS
    assert "weight_sft" not in policy.batches[0].rows.tokens or not bool(weights(policy, "sft").any())


def test_remax_compares_with_a_greedy_rollout_that_it_does_not_train(parts):
    policy, (told,), _ = stepped(parts, "remax")
    check(policy, told)
    assert told["batch/rollouts"] == BATCH * (ROLLOUTS + 1)
    assert sum(batch.rows.num_rows for batch in policy.batches) == BATCH * ROLLOUTS


def test_dapo_draws_other_prompts_for_groups_that_teach_nothing(parts):
    policy, (told,), (log,) = stepped(parts, "dapo", "algorithm.groups.max_rounds=3")
    check(policy, told)
    assert told["timing_s/generate_more"] > 0
    kept = torch.cat([batch.rows.fields["prompt"] for batch in policy.batches]).unique()
    assert 0 < len(kept) <= BATCH
    assert len(log.records) > BATCH
    by_prompt = {record["uid"]: record for record in log.records}
    assert any(0 < record["successes"] < record["n"] for record in by_prompt.values())


@pytest.mark.parametrize("name", ["luffy", "srft"])
def test_the_mixing_baselines_train_the_demonstration_of_every_group(parts, name):
    policy, (told,), _ = stepped(parts, name)
    check(policy, told)
    rows = torch.cat([batch.rows.fields["prompt"] for batch in policy.batches])
    assert len(rows) == BATCH * ROLLOUTS
    stream = "off" if name == "luffy" else "sft"
    assert bool(weights(policy, stream).any())
    assert bool(weights(policy, "rl").any())


# Seven rollouts with k successes beside a demonstration: (success, failure) by the released code's `grpo_split` without
# a standard deviation. The demonstration gets the first, or the second where it is wrong, as the teacher may be.
SPLIT = {
    0: (1.0, 0.0),
    1: (0.8571429, -0.1428571),
    2: (0.7142857, -0.2857143),
    3: (0.5714286, -0.4285714),
    4: (0.4285714, -0.5714286),
    5: (0.2857143, -0.7142857),
    6: (0.1428571, -0.8571429),
    7: (0.0, -1.0),
}


@pytest.mark.parametrize(("name", "samples"), [("luffy", 8), ("soft", 7)])
def test_groups_with_a_demonstration_have_the_golden_credit_of_grpo_split(parts, name, samples):
    """Who was right is counted by the loop and read from the target; credit follows from both by the table."""
    more = ("algorithm.adv_estimator=grpo_split", "algorithm.grpo_use_std=false", f"rollout.n={samples}")
    policy, _, (log,) = stepped(parts, name, *more)
    prompts, compared = parts[2], {True: 0, False: 0}
    for batch in policy.batches:
        rows = batch.rows
        owner, of_row = rows.per_token(rows.fields["prompt"]), rows.per_token(torch.arange(rows.num_rows))
        for prompt in rows.fields["prompt"].unique().tolist():
            own = rows.tokens["trained"] & (owner == prompt)
            told = [rows.tokens["credit"][own & (of_row == row)].unique() for row in of_row[own].unique().tolist()]
            if len(told) < 8:  # soft left the rollouts or the demonstration out
                continue
            record = log.records[prompt]
            question = prompts[record["uid"]].record
            right = first_action(question.target_text).body == question.golds[0]
            success, failure = SPLIT[record["successes"]]
            expected = [success] * (record["successes"] + right) + [failure] * (8 - record["successes"] - right)
            assert record["n"] == 7
            assert all(len(credit) == 1 for credit in told), "one credit for the whole response"
            assert sorted(float(credit) for credit in told) == pytest.approx(sorted(expected), abs=1e-6)
            compared[right] += record["successes"] > 0
    assert compared[True] > 0, "no group with a success stood beside a demonstration that is right"


def test_several_updates_of_a_step_compare_with_the_policy_before_the_first(parts):
    policy, (told,), _ = stepped(parts, "grpo", f"trainer.ppo_mini_batch_size={BATCH // 2}")
    check(policy, told)
    assert policy.asked == 1
    assert len(policy.reports) == 2
    first, second = (dict(report.metrics) for report in policy.reports)
    assert first["actor/ppo_kl"] == pytest.approx(0.0, abs=1e-5)
    assert abs(second["actor/ppo_kl"]) > 1e-5


def test_rollouts_one_step_ahead_are_those_of_the_policy_before_the_last_update(parts):
    """Its first step has nothing ahead of it, and so the second sees the same weights as the first."""
    more = ("trainer.staleness=1", "algorithm.correction.kind=tis", "trainer.lr=1e-3")
    policy, told, _ = stepped(parts, "grpo", *more, steps=3)
    assert [log["timing_s/publish"] > 0 for log in told] == [True, True, True]
    assert [len(report.metrics) > 0 for report in policy.reports] == [True] * 3
    gaps = [log["correction/abs_gap"] for log in told]
    assert gaps[0] < 0.001 < min(gaps[1:]), "what was sampled before the update is less likely, or more, after it"


def test_a_step_that_imitates_shows_every_target_and_generates_nothing(parts):
    policy, (told,), (log,) = stepped(parts, "sft")
    assert not any(report.skipped for report in policy.reports)
    assert {record["decision"] for record in log.records} == {"imitate"}
    assert policy.batches[0].rows.num_rows == BATCH
    assert float(weights(policy, "sft").sum()) == pytest.approx(1.0)
    assert "timing_s/generate" not in told


def test_ppo_trains_a_critic_beside_the_policy(parts):
    policy, (first, second), _ = stepped(parts, "ppo", "trainer.lr=1e-3", steps=2)
    assert first["critic/vpred_mean"] == 0.0, "its head starts at zero"
    assert second["critic/vpred_mean"] != 0.0
    assert first["critic/grad_norm"] > 0
    assert len(policy.reports) == 2
    assert "weight_value" not in policy.batches[0].rows.tokens


def test_ppo_goes_over_the_rows_of_a_step_several_times(parts):
    """Policy and critic, each `ppo_epochs` times over every mini-batch, against log-probs from before the first."""
    more = ("trainer.ppo_epochs=2", f"trainer.ppo_mini_batch_size={BATCH // 2}", "trainer.lr=1e-3")
    policy, (told,), _ = stepped(parts, "ppo", *more)
    assert len(policy.reports) == told["actor/updates"] == 4
    assert policy.asked == 1
    moved = [report.metrics["actor/ppo_kl"] for report in policy.reports]
    assert moved[0] == pytest.approx(0.0, abs=1e-5)
    assert abs(moved[2]) > 1e-6, "the second time over the same rows the policy is another"
    for name in ("actor/ppo_kl", "actor/grad_norm", "critic/vf_loss", "critic/grad_norm"):
        assert told[name] == pytest.approx((told[f"epoch_1/{name}"] + told[f"epoch_2/{name}"]) / 2, rel=1e-5), name
    assert told["epoch_1/actor/ppo_kl"] == pytest.approx((moved[0] + moved[1]) / 2)
    assert told["critic/vf_loss"] > 0
    assert "critic/vf_explained_var" in told


@pytest.mark.parametrize("name", ["online-dpo", "rejection"])
def test_pairs_are_the_best_and_the_worst_rollout_of_a_prompt(parts, name):
    """DPO holds them against the reference; rejection sampling imitates the best, where a prompt had a choice."""
    policy, (told,), _ = stepped(parts, name, f"rollout.n={ROLLOUTS}")
    (batch,) = policy.batches
    pairs = int(told["pairs/count"])
    assert 0 < pairs < BATCH
    assert told["pairs/without"] == BATCH - pairs
    assert batch.rows.num_rows == 2 * pairs
    assert told["reward/best_of_n"] > told["reward/mean"]
    weight, trained = batch.rows.tokens["weight_sft"], batch.rows.tokens["trained"]
    best = batch.rows.per_token(torch.arange(batch.rows.num_rows) % 2 == 0)
    assert bool((weight[best & trained] > 0).all())
    if name == "rejection":
        assert not bool(weight[~best].any())
        assert float(weight.sum()) == pytest.approx(1.0), "one for each pair, over their number"
    else:
        assert bool((weight[~best & trained] < 0).all())
        assert told["timing_s/reference"] > 0


def test_a_reference_gives_the_kl_that_the_loss_holds_against(parts):
    """And stays what it was while the policy moves."""
    policy, (told,), _ = stepped(parts, "grpo", "algorithm.use_kl_loss=true", "algorithm.kl_loss_coef=0.1")
    check(policy, told)
    (batch,) = policy.batches
    reference, before = parts[1].reference, batch.rows.tokens["ref_logp"]
    assert torch.equal(reference.log_probs(batch), before)
    assert not torch.equal(policy.log_probs(batch), batch.rows.tokens["rollout_logp"])
    assert told["timing_s/reference"] > 0
    assert told["loss/kl"] > 0, "the policy has left the reference"


def test_kl_may_be_taken_from_the_reward(parts):
    policy, (told,), _ = stepped(parts, "grpo", "algorithm.kl_ctrl.kl_coef=0.1")
    check(policy, told)
    assert told["critic/kl"] > 0
    assert told["critic/kl_coeff"] == 0.1


@pytest.fixture(scope="module")
def taught(parts):
    """Another task, of pairs in text; the checkpoint of a policy that 16 steps have shown its answers."""
    base, roles, _, begin = parts
    given = [each for each in GIVEN if not each.startswith("data.make=")]
    folder = begin.parent / "pref"
    run = with_files(load_run([*given, "data.make=pref", f"model.path={base.model.path}"]), folder)
    chat = Chat.open(run.model.path)
    prompts = train_prompts(run.data, chat, PictureRules.of_folder(run.model.path))
    run = replace(run, trainer=replace(run.trainer, sft_warmup_steps=TAUGHT))
    roles.policy.restore(begin)
    alone = replace(roles, critic=None, reference=None)
    loop = RlLoop(run, alone, Algorithm(run), Supply(prompts, build_sampler(run.data, 1, prompts)))
    for number in range(1, TAUGHT + 1):
        loop.step(number, Step(number))
    roles.policy.save(folder / "start", {}, True)
    return run, roles, prompts, folder / "start"


@pytest.mark.parametrize("name", ["grpo", "ppo", "online-dpo", "rejection"])
def test_what_is_sampled_gets_better(taught, name):
    """Mean reward of 64 rollouts a step, from a policy that is seldom right and is the reference too."""
    _, roles, _, start = taught
    roles.policy.restore(start)
    roles.reference.fill(start)
    _, told, _ = stepped(taught, name, steps=14)
    rewards = [each["reward/mean"] for each in told]
    assert 0.05 < rewards[0] < 0.5
    assert fmean(rewards[-3:]) > fmean(rewards[:3]) + 0.15


def test_the_example_of_an_own_loop_is_paid_by_its_own_reward(parts):
    base, roles, prompts = parts[:3]
    loaded = spec_from_file_location("own_loop", ROOT / "examples" / "own_loop.py")
    example = module_from_spec(loaded)
    loaded.loader.exec_module(example)
    run = replace(load_run([*example.RUN, *GIVEN]), model=base.model, data=base.data)
    own_roles = replace(roles, critic=None, reference=None)
    loop = RlLoop(run, own_roles, Algorithm(run), Supply(prompts, build_sampler(run.data, 5, prompts)))
    loop.version = f"weights {next(VERSIONS)}"
    log = example.own_step(loop, WARM_UP + 1)
    told = log.metrics()
    assert loop.version == str(WARM_UP + 1)
    assert told["reward/mean"] == pytest.approx(told["critic/score/mean"], abs=1e-5)
    assert round(100 * told["critic/score/max"]) % 100 != 0, "a word too many costs a hundredth"
    assert told["actor/grad_norm"] > 0
    assert len(log.records) == BATCH


def test_a_dead_engine_is_started_again_within_the_step(parts):
    import os
    import signal

    import psutil

    stepped(parts, "hpt")  # so that the engine has started
    ours = {os.getpid()}
    engines = []
    every = [each.info for each in psutil.process_iter(["pid", "ppid", "cmdline", "create_time"])]
    for process in sorted(every, key=lambda each: each["create_time"]):
        if process["ppid"] in ours:
            ours.add(process["pid"])
            if any("VLLM::" in word for word in process["cmdline"] or ()):
                engines.append(process["pid"])
    assert engines, f"vLLM's process is not among ours: {sorted(ours)}"
    for pid in engines:
        os.kill(pid, signal.SIGKILL)
    policy, (told,), (log,) = stepped(parts, "hpt")
    assert not any(report.skipped for report in policy.reports)
    assert told["batch/not_valid"] == 0
    assert any("started again" in note for note in log.notes)
    assert told["timing_s/mend"] > 0
