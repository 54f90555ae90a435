"""The schedule of a run whose steps have several optimizer steps."""

from hpt_megatron.config.load import load
from hpt_megatron.mcore.step.learning_rate import learning_rate
from hpt_megatron.mcore.worker import MegatronWorker


def test_a_schedule_in_steps_of_the_run_holds_whatever_optimizer_steps_each_has():
    """Two mini-batches gone over twice are four optimizer steps; a policy that begins after its critic ends with it."""
    given = ["algorithm=ppo", "data.train_batch_size=16", "trainer.ppo_mini_batch_size=8", "trainer.ppo_epochs=2"]
    given += ["trainer.lr_schedule=linear", "trainer.lr_warmup_steps=2", "trainer.total_training_steps=10"]
    run = load([*given, "trainer.critic_warmup=3"]).run
    assert run.updates_per_step == 4
    policy, critic = MegatronWorker(run)._schedule(), MegatronWorker(run, head="scalar")._schedule()
    assert (policy.warmup, policy.total) == (8, 28)
    assert (critic.warmup, critic.total) == (8, 40)
    assert learning_rate(39, critic) == 0.0
    assert learning_rate(20, critic) > 0.0
