"""Preferences, reward models, constraints, and a critic on the policy's trunk: settings that can be carried out."""

from collections.abc import Iterator
from os.path import isdir

from hpt_megatron.config.algorithm import OF_SCORES, PREFERENCES, scores_rows, trains_critic
from hpt_megatron.config.problem import Problem
from hpt_megatron.config.run import RunConfig
from hpt_megatron.registry import plugged

USUAL_SFT = (1e-6, 5e-5)


def check_preference(run: RunConfig) -> Iterator[Problem]:
    """A loss over pairs has pairs, and nothing beside it that would not act."""
    preference, trainer = run.algorithm.preference, run.trainer
    if preference.loss is None:
        return
    if preference.loss not in PREFERENCES:
        others = plugged("hpt_megatron.pairwise")
        if preference.loss not in others:
            right = f"one of {', '.join([*PREFERENCES, *others])}, or null"
            yield Problem("algorithm.preference.loss", preference.loss, "no such loss", right)
    if run.algorithm.unify_strategy != "no" or run.algorithm.n_prefix:
        why = "there is no gate and no demonstration where pairs are trained on"
        yield Problem("algorithm.unify_strategy", run.algorithm.unify_strategy, why, "no, with n_prefix=0")
    if trainer.sft_warmup_steps != 0:
        why = "a run over pairs has no warm-up"
        yield Problem("trainer.sft_warmup_steps", trainer.sft_warmup_steps, why, "0; run `hpt sft` before it")
    if trainer.ppo_epochs != 1:
        why = "pairs are compared anew before each optimizer step"
        yield Problem("trainer.ppo_epochs", trainer.ppo_epochs, why, "1; more steps say the same")
    if trainer.record_freq > 0:
        why = "steps over pairs are not recorded for `hpt replay`"
        yield Problem("trainer.record_freq", trainer.record_freq, why, "0")
    if preference.pairs == "rollouts" and run.rollout.n < 2:
        yield Problem("rollout.n", run.rollout.n, "a pair needs two rollouts of a prompt", "2 or more")
    if preference.pairs == "file" and run.reward.learned.runs:
        why = "no rollout is scored where pairs come from files"
        yield Problem("reward.learned.runs", run.reward.learned.runs, why, "[], or algorithm.preference.pairs=rollouts")


def check_preference_settings(run: RunConfig) -> Iterator[Problem]:
    """Numbers of the losses lie where they mean something; heads belong to a reward model."""
    preference = run.algorithm.preference
    ranges = {
        "beta": (preference.beta is None or preference.beta > 0, preference.beta, "above 0, or null"),
        "label_smoothing": (0 <= preference.label_smoothing < 0.5, preference.label_smoothing, "0 to below 0.5"),
        "odds_coef": (preference.odds_coef >= 0, preference.odds_coef, "0 or more"),
        "desirable": (preference.desirable >= 0, preference.desirable, "0 or more"),
        "undesirable": (preference.undesirable >= 0, preference.undesirable, "0 or more"),
        "center": (preference.center >= 0, preference.center, "0 or more"),
        "least_gap": (preference.least_gap >= 0, preference.least_gap, "0 or more"),
    }
    for key, (holds, value, right) in ranges.items():
        if not holds:
            yield Problem(f"algorithm.preference.{key}", value, "lies outside its range", right)
    if preference.heads and preference.loss != OF_SCORES:
        why = "only a reward model has heads"
        yield Problem("algorithm.preference.heads", preference.heads, why, "[], or loss=bradley_terry")
    if len({*preference.heads}) < len(preference.heads):
        yield Problem("algorithm.preference.heads", preference.heads, "two heads have one name", "different names")


def check_reward_model(run: RunConfig) -> Iterator[Problem]:
    """A model whose head says numbers cannot sample."""
    if scores_rows(run.algorithm) and run.algorithm.preference.pairs == "rollouts":
        why = "a reward model has no words to sample"
        yield Problem("algorithm.preference.pairs", "rollouts", why, "file; `hpt feedback label` makes pairs")


def check_learned(run: RunConfig) -> Iterator[Problem]:
    """Reward models are there, and are asked by a run that samples."""
    learned = run.reward.learned
    for path in learned.runs:
        if not isdir(path):
            yield Problem("reward.learned.runs", path, "no such folder", "a run with algorithm=reward_model")
    if learned.uncertainty < 0:
        why = "would pay for disagreement"
        yield Problem("reward.learned.uncertainty", learned.uncertainty, why, "0 or more")
    if learned.runs and run.supervised:
        why = "a supervised run samples nothing that could be scored"
        yield Problem("reward.learned.runs", learned.runs, why, "[]")
    names = [each.head for each in learned.heads]
    if len({*names}) < len(names):
        yield Problem("reward.learned.heads", names, "a head has two weights", "each head once")


def check_constraint(run: RunConfig) -> Iterator[Problem]:
    """What must hold is a component of the reward, and its price can move."""
    constraint, learned = run.reward.constraint, run.reward.learned
    if constraint.how == "off":
        return
    if constraint.component.split("/")[0] == "learned" and not learned.runs:
        why = "no reward model is asked"
        yield Problem("reward.constraint.component", constraint.component, why, "a component, or reward.learned.runs")
    if constraint.how == "lagrange" and not (constraint.rate > 0 and constraint.most > 0):
        yield Problem("reward.constraint.rate", constraint.rate, "the price would never move", "0.05, and most above 0")


def check_critic(run: RunConfig) -> Iterator[Problem]:
    """A critic of its own has its own rate and warm-up; one on the policy's trunk shares both."""
    algorithm, trainer = run.algorithm, run.trainer
    if algorithm.share_critic and not trains_critic(algorithm):
        why = f"{algorithm.adv_estimator} asks no critic"
        yield Problem("algorithm.share_critic", True, why, "false, or adv_estimator=gae")
    if algorithm.share_critic and trainer.critic_warmup:
        why = "a shared trunk would train the policy as well"
        yield Problem("trainer.critic_warmup", trainer.critic_warmup, why, "0, or share_critic=false")
    if trainer.critic_lr is not None and (algorithm.share_critic or not trains_critic(algorithm)):
        yield Problem("trainer.critic_lr", trainer.critic_lr, "there is no critic of its own", "null")
    elif trainer.critic_lr is not None and trainer.critic_lr <= 0:
        yield Problem("trainer.critic_lr", trainer.critic_lr, "nothing would be learned", "above 0, or null for lr")


def check_epochs(run: RunConfig) -> Iterator[Problem]:
    """Going over rows again needs a ratio that is held back."""
    algorithm, trainer = run.algorithm, run.trainer
    if trainer.ppo_epochs > 1 and algorithm.policy_loss == "none":
        why = "the rows are gone over several times, and nothing holds the ratio back"
        yield Problem("trainer.ppo_epochs", trainer.ppo_epochs, why, "1, or policy_loss=clip", "warning")


def check_sft_rate(run: RunConfig) -> Iterator[Problem]:
    """Too large a rate forgets what the model could do; the tiny model has nothing to forget."""
    trainer = run.trainer
    low, high = USUAL_SFT
    if trainer.sft_warmup_steps is None and run.model.hidden_size > 512 and not low <= trainer.lr <= high:
        why = "is far from the 1e-5 to 2e-5 that fine-tuning of demonstrations is usually done with"
        yield Problem("trainer.lr", trainer.lr, why, "1.0e-5", "warning")
