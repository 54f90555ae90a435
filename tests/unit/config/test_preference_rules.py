"""Settings of preferences, reward models, constraints and critics that cannot be carried out are named."""

import pytest

from hpt_megatron.config.load import load
from hpt_megatron.config.problem import errors
from hpt_megatron.config.run import TrainerConfig
from hpt_megatron.recipes.train import counted

DPO, RM, PPO = "algorithm=dpo", "algorithm=reward_model", "algorithm=ppo"


def wrong(*given):
    """Paths of the errors of a run."""
    return [problem.path for problem in errors(load(list(given)).problems)]


@pytest.mark.parametrize("choice", ["dpo", "ipo", "simpo", "orpo", "kto", "reward_model", "rejection"])
def test_every_shipped_choice_is_sound(choice):
    assert not wrong(f"algorithm={choice}")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ([DPO, "algorithm.preference.loss=dpoo"], "algorithm.preference.loss"),
        ([DPO, "algorithm.unify_strategy=switch", "algorithm.offline_loss_type=sft"], "algorithm.unify_strategy"),
        ([DPO, "trainer.sft_warmup_steps=10"], "trainer.sft_warmup_steps"),
        ([DPO, "trainer.ppo_epochs=2"], "trainer.ppo_epochs"),
        ([DPO, "trainer.record_freq=5"], "trainer.record_freq"),
        ([DPO, "algorithm.preference.pairs=rollouts", "rollout.n=1"], "rollout.n"),
        ([DPO, "reward.learned.runs=[.]"], "reward.learned.runs"),
        ([DPO, "algorithm.preference.beta=0.0"], "algorithm.preference.beta"),
        ([DPO, "algorithm.preference.label_smoothing=0.5"], "algorithm.preference.label_smoothing"),
        ([DPO, "algorithm.preference.least_gap=-1.0"], "algorithm.preference.least_gap"),
        ([DPO, "algorithm.preference.heads=[a]"], "algorithm.preference.heads"),
        ([RM, "algorithm.preference.heads=[a,a]"], "algorithm.preference.heads"),
        ([RM, "algorithm.preference.pairs=rollouts"], "algorithm.preference.pairs"),
        ([PPO, "reward.learned.runs=[nowhere]"], "reward.learned.runs"),
        ([PPO, "reward.learned.uncertainty=-1.0"], "reward.learned.uncertainty"),
        (["trainer.sft_warmup_steps=null", "reward.learned.runs=[.]"], "reward.learned.runs"),
        ([PPO, "reward.learned.heads=[{head: a, weight: 1.0}, {head: a, weight: 2.0}]"], "reward.learned.heads"),
        ([PPO, "reward.constraint.how=gate"], "reward.constraint.component"),
        (
            [PPO, "reward.constraint.how=lagrange", "reward.constraint.component=accuracy", "reward.constraint.rate=0"],
            "reward.constraint.rate",
        ),
        (["algorithm=grpo", "algorithm.share_critic=true"], "algorithm.share_critic"),
        ([PPO, "algorithm.share_critic=true", "trainer.critic_warmup=2"], "trainer.critic_warmup"),
        ([PPO, "algorithm.share_critic=true", "trainer.critic_lr=1e-5"], "trainer.critic_lr"),
        (["algorithm=grpo", "trainer.critic_lr=1e-5"], "trainer.critic_lr"),
        ([PPO, "trainer.critic_lr=0.0"], "trainer.critic_lr"),
        ([PPO, "trainer.lr_warmup_share=1.5", "trainer.lr_warmup_steps=0"], "trainer.lr_warmup_share"),
        ([PPO, "trainer.lr_warmup_share=0.05", "trainer.lr_warmup_steps=3"], "trainer.lr_warmup_share"),
        ([PPO, "data.base_files=[nowhere.parquet]"], "data.base_files[0]"),
    ],
)
def test_what_cannot_be_carried_out_is_named(given, path):
    assert path in wrong(*given)


def test_a_large_rate_for_demonstrations_of_a_large_model_is_warned_of():
    given = ["model=qwen2.5-vl-3b", "trainer.sft_warmup_steps=null", "trainer.lr=1e-3"]
    told = [str(each) for each in load(given).problems if each.path == "trainer.lr"]
    assert any("1e-5 to 2e-5" in line for line in told)


def test_a_warm_up_may_be_a_share_of_all_steps():
    trainer = load(["trainer.lr_warmup_share=0.04", "trainer.lr_warmup_steps=0"]).run.trainer
    assert isinstance(trainer, TrainerConfig)
    assert counted(trainer, 200).lr_warmup_steps == 8
    assert counted(trainer, 200).total_training_steps == 200
    assert counted(load([]).run.trainer, 200).lr_warmup_steps == 10


def test_the_weights_of_heads_ship_as_three_presets():
    shares = {}
    for name in ("helpful", "safe", "code"):
        learned = load([f"reward=learned-{name}"]).run.reward.learned
        shares[name] = {each.head: each.weight for each in learned.heads}
        assert sum(shares[name].values()) == pytest.approx(1.0)
    assert max(shares["helpful"], key=shares["helpful"].get) == "helpful"
    assert max(shares["safe"], key=shares["safe"].get) == "safe"
    code = load(["reward=learned-code"]).run.reward.learned
    assert code.weight < code.rules_weight, "most of all, the program has to be right"
