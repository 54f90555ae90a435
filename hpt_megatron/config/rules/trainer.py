"""Length of the run, optimizer, and when things are saved and tested."""

from collections.abc import Iterator

from hpt_megatron.config.geometry import parameters
from hpt_megatron.config.problem import Problem
from hpt_megatron.config.run import RunConfig

USUAL_LR = 1e-4  # full-parameter training of the real sizes; the tiny model is exempt
TINY_PARAMETERS = 100_000_000


def check_length_of_run(run: RunConfig) -> Iterator[Problem]:
    """A run ends."""
    trainer = run.trainer
    if trainer.total_epochs is None and trainer.total_training_steps is None:
        yield Problem("trainer.total_training_steps", None, "neither epochs nor steps say when to end", "500")


def check_warmup(run: RunConfig) -> Iterator[Problem]:
    """A number of steps, or all of them; what is held out is a number of rows."""
    warmup, held = run.trainer.sft_warmup_steps, run.data.hold_out
    if warmup is not None and warmup < 0:
        yield Problem("trainer.sft_warmup_steps", warmup, "is a number of steps", "0 or more, or null for all of them")
    if warmup != 0 and run.algorithm.offline_loss_type == "none":
        why = "the steps of trainer.sft_warmup_steps would show demonstrations and learn nothing from them"
        yield Problem("algorithm.offline_loss_type", "none", why, "sft, or trainer.sft_warmup_steps=0")
    if held < 0:
        yield Problem("data.hold_out", held, "is a number of demonstrations", "0 or more")


def check_staleness(run: RunConfig) -> Iterator[Problem]:
    """Rollouts ahead need devices of their own and a correction; a run that goes on does not repeat them to the bit."""
    path, trainer = "trainer.staleness", run.trainer
    if not trainer.staleness:
        return
    if trainer.staleness != 1:
        yield Problem(path, trainer.staleness, "is a number of steps", "0 or 1")
    if trainer.placement == "colocated":
        why = "engines sleep while their devices train"
        yield Problem(path, 1, why, "0, or trainer.placement=split")
    if run.algorithm.correction.kind == "none":
        why = "the policy that is trained is not the one that sampled, and nothing corrects for it"
        yield Problem("algorithm.correction.kind", "none", why, "tis or mis, or trainer.staleness=0")
    if trainer.deterministic:
        why = "a run that goes on samples the first step again, from newer weights"
        yield Problem(path, 1, why, "0, or trainer.deterministic=false")


def check_lr_warmup(run: RunConfig) -> Iterator[Problem]:
    """The learning rate rises over so many steps, or over a share of all."""
    trainer = run.trainer
    share = trainer.lr_warmup_share
    if share is not None and not 0 <= share <= 1:
        yield Problem("trainer.lr_warmup_share", share, "is a share of all steps", "0.03, or null")
    elif share is not None and trainer.lr_warmup_steps:
        why = f"lr_warmup_steps is {trainer.lr_warmup_steps}, and a warm-up is a number or a share"
        yield Problem("trainer.lr_warmup_share", share, why, "null, or lr_warmup_steps=0")


def check_optimizer(run: RunConfig) -> Iterator[Problem]:
    """Learning rate and clipping can train something."""
    trainer = run.trainer
    if trainer.lr <= 0:
        yield Problem("trainer.lr", trainer.lr, "nothing would be learned", "1e-6 to 5e-6 for the real sizes")
    elif trainer.lr > USUAL_LR and parameters(run.model) > TINY_PARAMETERS:
        why = "is far above what full-parameter post-training bears"
        yield Problem("trainer.lr", trainer.lr, why, "1e-6 to 2e-5", "warning")
    if trainer.clip_grad < 0:
        yield Problem("trainer.clip_grad", trainer.clip_grad, "must not be negative", "1.0, or 0 for no clipping")
    if trainer.max_grad_norm is not None and trainer.max_grad_norm <= trainer.clip_grad:
        yield Problem(
            "trainer.max_grad_norm",
            trainer.max_grad_norm,
            f"skips a step by its norm before clipping; at most clip_grad {trainer.clip_grad:g} would skip nearly all",
            "80.0, or null never to skip",
        )
    if trainer.lr_warmup_steps < 0:
        yield Problem("trainer.lr_warmup_steps", trainer.lr_warmup_steps, "must not be negative", "0")
    if not 0 <= trainer.lr_floor <= 1:
        yield Problem("trainer.lr_floor", trainer.lr_floor, "is a share of lr", "0 to 1")
    if trainer.weight_decay < 0:
        yield Problem("trainer.weight_decay", trainer.weight_decay, "must not be negative", "0.01, or 0 for none")
    if len(trainer.adam_betas) != 2 or not all(0 <= beta < 1 for beta in trainer.adam_betas):
        yield Problem(
            "trainer.adam_betas", list(trainer.adam_betas), "are two numbers from 0 to below 1", "[0.9, 0.999]"
        )
    steps = trainer.total_training_steps
    if trainer.lr_schedule != "constant" and steps is None:
        why = "falls until the last step, and total_training_steps does not say when that is"
        yield Problem("trainer.lr_schedule", trainer.lr_schedule, why, "constant, or total_training_steps")
    if steps is not None and trainer.lr_warmup_steps >= steps:
        why = f"the run of {steps} steps ends before the learning rate is reached"
        yield Problem("trainer.lr_warmup_steps", trainer.lr_warmup_steps, why, f"below {steps}", "warning")


def check_freeze(run: RunConfig) -> Iterator[Problem]:
    """Something is left to train; whether a pattern matches is seen where the tensors are."""
    for index, pattern in enumerate(run.trainer.freeze):
        if not pattern.strip() or pattern == "*":
            why = "would leave nothing to train" if pattern.strip() else "is empty"
            yield Problem(f"trainer.freeze[{index}]", pattern, why, "names or patterns such as visual.*")


def check_frequencies(run: RunConfig) -> Iterator[Problem]:
    """0 or less means never; a first checkpoint after the end means only the last one."""
    trainer, steps = run.trainer, run.trainer.total_training_steps
    for path, frequency in (("trainer.save_freq", trainer.save_freq), ("trainer.test_freq", trainer.test_freq)):
        if steps is not None and frequency > steps:
            why = f"the run ends at step {steps}, before it comes due"
            yield Problem(path, frequency, why, f"at most {steps}, or 0 for never", "warning")


def check_seed(run: RunConfig) -> Iterator[Problem]:
    """Seeds are not negative: the engines refuse them."""
    if run.trainer.seed < 0:
        yield Problem("trainer.seed", run.trainer.seed, "must not be negative", "0")


def check_critic(run: RunConfig) -> Iterator[Problem]:
    """Only GAE has a critic to warm up."""
    warmup, estimator = run.trainer.critic_warmup, run.algorithm.adv_estimator
    if warmup < 0:
        yield Problem("trainer.critic_warmup", warmup, "must not be negative", "0")
    if warmup > 0 and estimator != "gae":
        yield Problem("trainer.critic_warmup", warmup, f"{estimator} has no critic", "0, or adv_estimator=gae")


def check_monitors(run: RunConfig) -> Iterator[Problem]:
    """A bound that every run is beyond, or none can reach, watches nothing."""
    monitors = run.trainer.monitors
    for name, least in (("kl_times", 1.0), ("length_times", 1.0), ("habits_times", 1.0)):
        value = getattr(monitors, name)
        if value < least:
            yield Problem(f"trainer.monitors.{name}", value, "is met by every run", "1.0 or more, such as 2.0")
    if not 0 <= monitors.entropy_share < 1:
        yield Problem("trainer.monitors.entropy_share", monitors.entropy_share, "is a share", "0 to below 1")
    for name in ("reward_fall", "demo_loss_gap", "judge_fall"):
        if getattr(monitors, name) < 0:
            yield Problem(f"trainer.monitors.{name}", getattr(monitors, name), "must not be negative", "0 or more")
    if not 0 < monitors.repetition_above < 1:
        path, above = "trainer.monitors.repetition_above", monitors.repetition_above
        yield Problem(path, above, "is a share", "above 0 and below 1, such as 0.5")
    if monitors.judge == "stop" and monitors.second is None:
        why = "no component is the second judge, so the monitor has nothing to watch"
        yield Problem("trainer.monitors.judge", "stop", why, "warn, or trainer.monitors.second=COMPONENT")


def check_generation_log(run: RunConfig) -> Iterator[Problem]:
    """A number of prompts."""
    if run.trainer.log_val_generations < 0:
        value = run.trainer.log_val_generations
        yield Problem("trainer.log_val_generations", value, "must not be negative", "5, or 0 for none")
