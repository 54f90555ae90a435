"""The gate against the number of rollouts; losses and KL terms against one another."""

from collections.abc import Iterator
from os.path import isfile

from hpt_megatron.config.algorithm import (
    ADV_ESTIMATORS,
    KL_CONTROLLERS,
    KL_ESTIMATORS,
    POLICY_LOSSES,
    RESHAPES,
    STRATEGIES,
    AlgorithmConfig,
)
from hpt_megatron.config.problem import Problem
from hpt_megatron.config.run import RunConfig
from hpt_megatron.registry import plugged

SOFT_TABLES = ("published_0", "published_1", "published_2")

USES_STD = ("grpo", "grpo_split")
NEEDS_GROUP = ("grpo", "grpo_split", "dr_grpo", "rloo", "opo", "gpg", "pass_at_k", "reinforce_plus_plus_baseline")
OFF_POLICY = ("off_policy", "off_sft", "switch_off_sft", "srft")
ENTROPY_USUAL = 0.01
GSPO_USUAL = 0.01


def check_names(run: RunConfig) -> Iterator[Problem]:
    """Strategies and estimators are ours or another package's."""
    algorithm = run.algorithm
    for path, name, ours, group in (
        ("algorithm.unify_strategy", algorithm.unify_strategy, STRATEGIES, "hpt_megatron.strategies"),
        ("algorithm.adv_estimator", algorithm.adv_estimator, ADV_ESTIMATORS, "hpt_megatron.credit"),
        ("algorithm.policy_loss", algorithm.policy_loss, POLICY_LOSSES, "hpt_megatron.components"),
        ("algorithm.off_policy_reshape", algorithm.off_policy_reshape, RESHAPES, "hpt_megatron.reshapes"),
        ("algorithm.kl_loss_type", algorithm.kl_loss_type, KL_ESTIMATORS, "hpt_megatron.kl"),
        ("algorithm.kl_ctrl.estimator", algorithm.kl_ctrl.estimator, KL_ESTIMATORS[:-1], "hpt_megatron.kl"),
        ("algorithm.kl_ctrl.type", algorithm.kl_ctrl.type, KL_CONTROLLERS, "hpt_megatron.kl_controllers"),
    ):
        if name in ours:
            continue
        others = plugged(group)  # a look at every installed package, so only where it is needed
        if name not in others:
            yield Problem(path, name, "no such name", f"one of {', '.join([*ours, *others])}")


def check_gate(run: RunConfig) -> Iterator[Problem]:
    """A prompt imitates when at most `switch_gate` of its rollouts succeed, so the gate lies in -1 ... n - 1."""
    algorithm, n = run.algorithm, run.rollout.n_verify
    if algorithm.unify_strategy != "switch":
        return
    for key, gate, rate in (
        ("switch_gate", algorithm.switch_gate, algorithm.switch_gate_rate),
        ("switch_gate_off", algorithm.switch_gate_off, algorithm.switch_gate_off_rate),
    ):
        path = f"algorithm.{key}"
        if rate is not None:
            yield from _check_rate(f"{path}_rate", rate, gate, n)
        elif gate < -1 or gate > n:
            yield Problem(path, gate, f"counts successes among {n} rollouts (rollout.n_verify)", f"-1 to {n - 1}")
        elif gate == n:
            yield Problem(path, gate, f"even {n} successes of {n} never reach RL", f"at most {n - 1}", "warning")


def _check_rate(path: str, rate: float, gate: int, n: int) -> Iterator[Problem]:
    count = path.removesuffix("_rate")
    if gate != 0:
        yield Problem(path, rate, f"{count} is {gate}, and a gate is a count or a rate", f"null, or {count}=0")
    if rate > 1:
        yield Problem(path, rate, "is a share of the rollouts", "0 to below 1, or negative never to imitate")
    elif rate == 1:
        yield Problem(path, rate, f"even {n} successes of {n} never reach RL", "below 1", "warning")


def check_strategies(run: RunConfig) -> Iterator[Problem]:
    """The settings of each strategy describe something that can be carried out."""
    algorithm, soft, adaptive, anneal = run.algorithm, run.algorithm.soft, run.algorithm.adaptive, run.algorithm.anneal
    if isinstance(soft.table, str):
        if soft.table not in SOFT_TABLES:
            yield Problem(
                "algorithm.soft.table", soft.table, "no such table", f"one of {', '.join(SOFT_TABLES)}, or rows"
            )
    elif len(soft.table) < 2 or any(len(row) != 3 or min(row) < 0 for row in soft.table):
        why = "holds a row [on, off, sft] of weights from 0 for each number of successes"
        yield Problem("algorithm.soft.table", soft.table, why, "[[0, 0, 1], [1, 0, 0]], for example")
    if not 0 <= adaptive.low < adaptive.high <= 1:
        why = f"low {adaptive.low:g} and high {adaptive.high:g} bound a chance"
        yield Problem("algorithm.adaptive.low", adaptive.low, why, "0 <= low < high <= 1")
    if adaptive.prior < 0 or not 0 < adaptive.rate <= 1:
        why = "prior is a number of rollouts, rate a share"
        yield Problem("algorithm.adaptive.rate", adaptive.rate, why, "prior from 0, rate above 0 and at most 1")
    if not (0 <= anneal.start <= 1 and 0 <= anneal.end <= 1):
        why = f"start and end {anneal.end:g} are shares of imitation"
        yield Problem("algorithm.anneal.start", anneal.start, why, "0 to 1")
    steps = run.trainer.total_training_steps
    if algorithm.unify_strategy == "anneal" and steps is not None and anneal.steps > steps:
        why = f"the run ends at step {steps}, before the schedule does"
        yield Problem("algorithm.anneal.steps", anneal.steps, why, f"at most {steps}", "warning")
    if not algorithm.success:
        yield Problem(
            "algorithm.success", [], "nothing says what a success is", "[{component: accuracy, op: '>=', value: 1.0}]"
        )


def check_prefix(run: RunConfig) -> Iterator[Problem]:
    """Rows that start from their demonstration belong to `no` and to single responses, and leave others to compare."""
    algorithm, n = run.algorithm, run.rollout.n
    prefix = algorithm.prefix
    whole = prefix.min_ratio == prefix.max_ratio == 1.0
    if algorithm.n_prefix == 0:
        return
    if algorithm.unify_strategy != "no":
        why = f"{algorithm.unify_strategy} adds demonstrations by itself"
        yield Problem("algorithm.n_prefix", algorithm.n_prefix, why, "0, or unify_strategy=no")
    elif run.rollout.agent != "single_turn" and not whole:
        why = "a part of a target is the start of a single response"
        yield Problem("algorithm.n_prefix", algorithm.n_prefix, why, "0, or rollout.agent=single_turn")
    elif prefix.strategy == "none":
        yield Problem("algorithm.prefix.strategy", "none", "n_prefix asks for a prefix", "random, or n_prefix=0")
    elif whole and prefix.strategy not in ("random", "fixed"):
        why = "schedules shrink the prefix, and n_prefix asks for the whole target"
        yield Problem("algorithm.prefix.strategy", prefix.strategy, why, "random or fixed")
    elif algorithm.n_prefix > n:
        why = f"is more than the {n} rows of a prompt (rollout.n)"
        yield Problem("algorithm.n_prefix", algorithm.n_prefix, why, f"at most {n}, or -1 for all")
    elif whole and algorithm.n_prefix in (-1, n):
        yield Problem(
            "algorithm.n_prefix", algorithm.n_prefix, f"leaves none of the {n} rows (rollout.n)", f"at most {n - 1}"
        )


def check_prefix_reward(run: RunConfig) -> Iterator[Problem]:
    """A weight that the rows of a prompt share needs a prefix in each of them."""
    algorithm = run.algorithm
    if algorithm.use_sft_prefix_reward and algorithm.n_prefix != -1:
        why = f"all rows of a prompt share the weight of its prefix, and n_prefix is {algorithm.n_prefix}"
        yield Problem("algorithm.use_sft_prefix_reward", True, why, "false, or n_prefix=-1")
    if algorithm.sft_prefix_reward_weight < 0:
        why = "a negative weight would train away from the target"
        yield Problem("algorithm.sft_prefix_reward_weight", algorithm.sft_prefix_reward_weight, why, "0 or more")


def check_reward_scale(run: RunConfig) -> Iterator[Problem]:
    """Statistics exist, and something lies between the bounds."""
    reward_scale = run.algorithm.reward_scale
    if reward_scale.statistics is not None and not isfile(reward_scale.statistics):
        right = 'a JSON file such as {"mean": 0.4, "std": 0.2, "count": 1000}, or null'
        yield Problem("algorithm.reward_scale.statistics", reward_scale.statistics, "no such file", right)
    low, high = reward_scale.r_min, reward_scale.r_max
    if low is not None and high is not None and low >= high:
        yield Problem("algorithm.reward_scale.r_min", low, f"nothing lies between it and r_max {high:g}", "below r_max")


def check_srft(run: RunConfig) -> Iterator[Problem]:
    """SRFT's scales do not turn a part around, and its bounds bound."""
    algorithm, srft = run.algorithm, run.algorithm.srft
    for key, scale in (("sft_scale", srft.sft_scale), ("on_scale", srft.on_scale)):
        if scale < 0:
            yield Problem(f"algorithm.srft.{key}", scale, "a negative scale would train away from it", "0 or more")
    if srft.negative_floor is not None and srft.negative_floor >= 0:
        why = "is a log-prob, and no token is above 0"
        yield Problem("algorithm.srft.negative_floor", srft.negative_floor, why, "-10.0, or null")
    if srft.clip and algorithm.clip_ratio_low >= 1:
        why = f"clip_ratio_low {algorithm.clip_ratio_low:g} leaves no lower bound on a ratio"
        yield Problem("algorithm.srft.clip", True, why, "clip_ratio_low below 1")


def trains_off_policy(algorithm: AlgorithmConfig) -> bool:
    """Whether any demonstration is trained by RL."""
    middle = algorithm.unify_strategy == "switch" and algorithm.switch_gate_off > algorithm.switch_gate
    return middle or algorithm.unify_strategy == "soft" or algorithm.offline_loss_type in OFF_POLICY


def check_group_size(run: RunConfig) -> Iterator[Problem]:
    """Credit against the group needs a group."""
    algorithm, rollouts = run.algorithm, run.rollouts_per_prompt
    if rollouts == 1 and algorithm.adv_estimator in NEEDS_GROUP:
        key = "rollout.n_verify" if algorithm.unify_strategy == "switch" else "rollout.n"
        yield Problem(
            key,
            rollouts,
            f"a group of one gives {algorithm.adv_estimator} nothing to compare with: the credit is the reward itself",
            "2 or more",
            "warning",
        )


def check_unused_by_strategy(run: RunConfig) -> Iterator[Problem]:
    """Settings of the demonstrations when none is ever trained on."""
    algorithm = run.algorithm
    if algorithm.unify_strategy == "no" and algorithm.n_prefix and algorithm.offline_loss_type == "none":
        why = "n_prefix sets a row aside for a demonstration, and none of its losses is on"
        yield Problem("algorithm.offline_loss_type", "none", why, "off_policy, or n_prefix=0")
    if algorithm.unify_strategy == "no" and algorithm.remove_sfted_data:
        why = "unify_strategy is no, so no prompt is ever imitated and none is removed"
        yield Problem("algorithm.remove_sfted_data", True, why, "false", "warning")
    if algorithm.unify_strategy != "no" and algorithm.offline_loss_type == "none":
        why = f"{algorithm.unify_strategy} trains on demonstrations, and none of their losses is on"
        yield Problem("algorithm.offline_loss_type", "none", why, "sft")


def check_coefficients(run: RunConfig) -> Iterator[Problem]:
    """No coefficient is negative; a zero says that something is switched off."""
    algorithm = run.algorithm
    for path, value in (
        ("algorithm.sft_loss_coef", algorithm.sft_loss_coef),
        ("algorithm.off_loss_coef", algorithm.off_loss_coef),
        ("algorithm.entropy_coeff", algorithm.entropy_coeff),
        ("algorithm.kl_loss_coef", algorithm.kl_loss_coef),
        ("algorithm.kl_ctrl.kl_coef", algorithm.kl_ctrl.kl_coef),
    ):
        if value < 0:
            yield Problem(path, value, "a negative coefficient would train away from the target", "0 or more")
    if algorithm.unify_strategy == "switch" and algorithm.sft_loss_coef == 0:
        yield Problem("algorithm.sft_loss_coef", 0.0, "prompts that imitate would learn nothing", "above 0", "warning")
    if algorithm.entropy_coeff > ENTROPY_USUAL:
        why = f"is above the usual range 0 to {ENTROPY_USUAL}; the policy may not settle"
        yield Problem("algorithm.entropy_coeff", algorithm.entropy_coeff, why, str(ENTROPY_USUAL), "warning")


def check_entropy_control(run: RunConfig) -> Iterator[Problem]:
    """A coefficient that is to be raised begins below its bound, and takes steps."""
    control, low = run.algorithm.entropy_ctrl, run.algorithm.entropy_coeff
    if control.target is None:
        return
    if run.supervised or run.algorithm.preference.loss is not None:
        why = "this run trains on no rollouts, whose entropy it would be"
        yield Problem("algorithm.entropy_ctrl.target", control.target, why, "null")
    if control.target <= 0:
        yield Problem("algorithm.entropy_ctrl.target", control.target, "no entropy lies below it", "0.3, or null")
    if control.step <= 0:
        yield Problem("algorithm.entropy_ctrl.step", control.step, "the coefficient would not be raised", "0.001")
    if control.high <= low:
        why = f"is not above entropy_coeff {low:g}, where the coefficient begins"
        yield Problem("algorithm.entropy_ctrl.high", control.high, why, str(ENTROPY_USUAL))


def check_kl(run: RunConfig) -> Iterator[Problem]:
    """A KL term is either on with a coefficient, or off; a controller that adapts has something to adapt to."""
    algorithm, kl_ctrl = run.algorithm, run.algorithm.kl_ctrl
    if algorithm.use_kl_loss and algorithm.kl_loss_coef == 0:
        why = f"kl_loss_coef is 0, so the {algorithm.kl_loss_type} loss would only cost a reference model"
        yield Problem("algorithm.use_kl_loss", True, why, "false, or kl_loss_coef above 0", "warning")
    if not algorithm.use_kl_loss and algorithm.kl_loss_coef > 0:
        yield Problem(
            "algorithm.kl_loss_coef", algorithm.kl_loss_coef, "use_kl_loss is false, so it acts on nothing", "0"
        )
    if kl_ctrl.type != "fixed":
        if kl_ctrl.target_kl <= 0:
            yield Problem("algorithm.kl_ctrl.target_kl", kl_ctrl.target_kl, f"{kl_ctrl.type} steers towards it", "6.0")
        if kl_ctrl.kl_coef == 0:
            why = f"{kl_ctrl.type} multiplies it, and 0 stays 0"
            yield Problem("algorithm.kl_ctrl.kl_coef", 0.0, why, "0.05, for example")
    if kl_ctrl.type == "adaptive" and kl_ctrl.horizon < 1:
        yield Problem("algorithm.kl_ctrl.horizon", kl_ctrl.horizon, "must be at least 1 row", "10000")


def check_kl_bounds(run: RunConfig) -> Iterator[Problem]:
    """The KL coefficient starts within its bounds."""
    kl_ctrl = run.algorithm.kl_ctrl
    if not 0 <= kl_ctrl.low <= kl_ctrl.high:
        yield Problem(
            "algorithm.kl_ctrl.low", kl_ctrl.low, f"is no range with high {kl_ctrl.high:g}", "0 <= low <= high"
        )
    elif kl_ctrl.kl_coef >= 0 and not kl_ctrl.low <= kl_ctrl.kl_coef <= kl_ctrl.high:
        why = f"lies outside its bounds {kl_ctrl.low:g} to {kl_ctrl.high:g}"
        yield Problem("algorithm.kl_ctrl.kl_coef", kl_ctrl.kl_coef, why, "within them")
    if kl_ctrl.update_period > 1 and kl_ctrl.type == "fixed":
        why = "a fixed coefficient is never updated"
        yield Problem("algorithm.kl_ctrl.update_period", kl_ctrl.update_period, why, "1", "warning")


def check_ranges(run: RunConfig) -> Iterator[Problem]:
    """Clips, corrections, discounts, prefixes, gates on groups and shaping describe ranges that exist."""
    algorithm, correction, prefix = run.algorithm, run.algorithm.correction, run.algorithm.prefix
    groups, overlong = run.algorithm.groups, run.algorithm.overlong
    rollouts = run.rollouts_per_prompt
    ranges = {
        "clip_ratio_low": (0 <= algorithm.clip_ratio_low <= 1, algorithm.clip_ratio_low, "0 to 1"),
        "clip_ratio_high": (algorithm.clip_ratio_high >= 0, algorithm.clip_ratio_high, "0 or more"),
        "clip_ratio_dual": (algorithm.clip_ratio_dual > 1, algorithm.clip_ratio_dual, "above 1"),
        "correction.low": (0 <= correction.low <= correction.high, correction.low, f"0 to high {correction.high:g}"),
        "gamma": (0 <= algorithm.gamma <= 1, algorithm.gamma, "0 to 1"),
        "lam": (0 <= algorithm.lam <= 1, algorithm.lam, "0 to 1"),
        "pass_k": (algorithm.pass_k <= rollouts, algorithm.pass_k, f"at most the {rollouts} rollouts of a prompt"),
        "prefix_reward_weight_alpha": (
            algorithm.prefix_reward_weight_alpha >= 0 and algorithm.prefix_reward_weight_beta >= 0,
            algorithm.prefix_reward_weight_alpha,
            "weights from 0, beta too",
        ),
        "prefix.min_ratio": (0 <= prefix.min_ratio <= prefix.max_ratio <= 1, prefix.min_ratio, "0 <= min <= max <= 1"),
        "groups.success_low": (
            0 <= groups.success_low <= groups.success_high <= 1,
            groups.success_low,
            "0 <= success_low <= success_high <= 1",
        ),
        "groups.min_valid": (groups.min_valid <= rollouts, groups.min_valid, f"at most the {rollouts} rollouts"),
        "overlong.buffer_share": (0 <= overlong.buffer_share <= 1, overlong.buffer_share, "0 to 1"),
        "groups.truncated_at_most": (
            groups.truncated_at_most is None or 0 <= groups.truncated_at_most <= 1,
            groups.truncated_at_most,
            "0 to 1, or null",
        ),
        "value_coef": (algorithm.value_coef >= 0, algorithm.value_coef, "0 or more"),
        "overlong.factor": (overlong.factor >= 0, overlong.factor, "0 or more"),
    }
    for key, (holds, value, right) in ranges.items():
        if not holds:
            yield Problem(f"algorithm.{key}", value, "lies outside its range", right)


def check_sequence_clip(run: RunConfig) -> Iterator[Problem]:
    """A sequence ratio is a mean over its tokens and moves far less than theirs."""
    algorithm = run.algorithm
    if algorithm.policy_loss == "gspo" and algorithm.clip_ratio_high > GSPO_USUAL:
        why = "gspo clips the ratio of whole rows, which hardly ever moves that far: nothing would be clipped"
        yield Problem("algorithm.clip_ratio_high", algorithm.clip_ratio_high, why, "0.0004, low 0.0003", "warning")
    if algorithm.policy_loss == "cispo" and algorithm.clip_ratio_high < 1:
        why = "cispo bounds the weight of a token, not its update; so tight a bound takes away what it is for"
        yield Problem("algorithm.clip_ratio_high", algorithm.clip_ratio_high, why, "4.0, low 1.0", "warning")


def check_unused_by_loss(run: RunConfig) -> Iterator[Problem]:
    """Settings that the chosen loss does not read."""
    algorithm = run.algorithm
    if algorithm.off_policy_reshape != "no_reshape" and not trains_off_policy(algorithm):
        why = "no demonstration is trained by RL here, so there is nothing to shape"
        path = "algorithm.off_policy_reshape"
        yield Problem(path, algorithm.off_policy_reshape, why, "no_reshape", "warning")
    if algorithm.loss_agg != "token" and algorithm.normalize != "global":
        why = f"normalize is {algorithm.normalize}, which has denominators of its own"
        yield Problem("algorithm.loss_agg", algorithm.loss_agg, why, "token, or normalize=global", "warning")
    if (algorithm.policy_loss == "srft_rl") != (algorithm.offline_loss_type == "srft"):
        why = f"offline_loss_type is {algorithm.offline_loss_type}; srft weighs both of its parts by the row's entropy"
        yield Problem(
            "algorithm.policy_loss", algorithm.policy_loss, why, "srft_rl with srft, another without", "warning"
        )


def check_official_arithmetic(run: RunConfig) -> Iterator[Problem]:
    """`official` repeats the released code, whose sequence form of the off-policy loss cannot run."""
    algorithm = run.algorithm
    if algorithm.off_policy_loss_impl == "seq" and algorithm.normalize == "official":
        why = "the released code's sequence form cannot run, so there is nothing to repeat"
        yield Problem("algorithm.off_policy_loss_impl", "seq", why, "token, or normalize=global")
    if algorithm.off_policy_loss_impl == "seq" and not trains_off_policy(algorithm):
        why = "no demonstration is trained by RL here"
        yield Problem("algorithm.off_policy_loss_impl", "seq", why, "token", "warning")


def check_std(run: RunConfig) -> Iterator[Problem]:
    """Division by the group's spread exists in the GRPO family alone."""
    algorithm = run.algorithm
    if algorithm.grpo_use_std and algorithm.adv_estimator not in USES_STD:
        why = f"{algorithm.adv_estimator} does not divide by the group's standard deviation"
        yield Problem("algorithm.grpo_use_std", True, why, "false", "warning")
