"""What a run learns from its rollouts; the meaning of each key stands beside its value in `configs/algorithm/`."""

from dataclasses import dataclass
from typing import Literal

from hpt_megatron.config.model import Count, Name

# Names that other packages may add to, through the entry points of `hpt_megatron.registry`; a rule lists both.
STRATEGIES = ("switch", "soft", "no", "adaptive", "anneal")
ADV_ESTIMATORS = (
    "grpo",
    "grpo_split",
    "grpo_balance",
    "dr_grpo",
    "rloo",
    "reinforce",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
    "remax",
    "gae",
    "opo",
    "gpg",
    "pass_at_k",
)
POLICY_LOSSES = ("none", "clip", "dual_clip", "gspo", "cispo", "srft_rl")
RESHAPES = (
    "no_reshape",
    "logp",
    "p_logp",
    "square_root",
    "pow",
    "p_div_p_0.1",
    "p_div_p_0.3",
    "p_div_p_0.5",
    "classic_reject_token",
)
PREFERENCES = ("dpo", "ipo", "simpo", "orpo", "kto", "imitate", "bradley_terry")
COMPARED = ("dpo", "ipo", "kto")
"""Preference losses that hold the policy against the model that it began as."""
OF_SCORES = "bradley_terry"
KL_CONTROLLERS = ("fixed", "adaptive", "ppo_rule")
KL_ESTIMATORS = ("k1", "k2", "k3", "low_var", "abs", "mse", "full")


@dataclass(frozen=True, kw_only=True)
class KlControlConfig:
    """The penalty on leaving the reference, taken from the reward."""

    type: Name
    kl_coef: float
    target_kl: float
    horizon: int
    low: float
    high: float
    update_period: Count
    estimator: Name


@dataclass(frozen=True, kw_only=True)
class EntropyControlConfig:
    """What raises the coefficient of the entropy bonus, where the policy collapses."""

    target: float | None
    step: float
    high: float


@dataclass(frozen=True, kw_only=True)
class SuccessConfig:
    """One condition of a success: a reward component against a threshold."""

    component: str
    op: Literal[">=", ">"]
    value: float


@dataclass(frozen=True, kw_only=True)
class SoftConfig:
    """The table of `soft`: the name of a published one, or rows of (on, off, sft) for 0 ... m successes."""

    table: str | tuple[tuple[float, ...], ...]
    count_includes_demo: bool


@dataclass(frozen=True, kw_only=True)
class AdaptiveConfig:
    """The band of `adaptive` and how fast it forgets."""

    low: float
    high: float
    prior: float
    rate: float


@dataclass(frozen=True, kw_only=True)
class AnnealConfig:
    """The schedule of `anneal`."""

    start: float
    end: float
    steps: Count
    shape: Literal["linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class PrefixConfig:
    """How much of its target a row starts from, where `n_prefix` sets rows aside."""

    strategy: Literal["none", "random", "linear", "linear_max", "reverse_linear", "fixed"]
    min_ratio: float
    max_ratio: float
    steps: Count
    share: bool


@dataclass(frozen=True, kw_only=True)
class CorrectionConfig:
    """What is done about the gap between the engine's log-probs and the trainer's."""

    kind: Literal["none", "tis", "mis"]
    level: Literal["token", "sequence", "geometric"]
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class RewardScaleConfig:
    """What is done to a score before the credit: global (statistics of a file), batch, length, clip, in this order."""

    statistics: str | None
    batch: bool
    length: bool
    r_min: float | None
    r_max: float | None


@dataclass(frozen=True, kw_only=True)
class SrftConfig:
    """The two parts of SRFT that the entropy of a row weighs."""

    type: Literal["paper", "exp", "classic_rl", "minus_old"]
    sft_scale: float
    on_scale: float
    clip: bool
    negative_floor: float | None


@dataclass(frozen=True, kw_only=True)
class OverlongConfig:
    """The penalty on responses that come near the longest one."""

    buffer_share: float
    factor: float


@dataclass(frozen=True, kw_only=True)
class GroupsConfig:
    """Which groups are trained on at all, and how often others are drawn for those that are not."""

    min_valid: Count
    mixed: bool
    spread_above: float | None
    success_low: float
    success_high: float
    truncated_at_most: float | None
    max_rounds: Count


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """A loss over answers of which one is preferred, in place of gate, credit and policy loss."""

    loss: Name | None
    pairs: Literal["file", "rollouts"]
    beta: float | None
    label_smoothing: float
    gamma: float
    odds_coef: float
    desirable: float
    undesirable: float
    margin: float
    pair_margin: float
    center: float
    least_gap: float
    heads: tuple[str, ...]
    statistics_over: Count


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """What is learned from a group of rollouts: the gate, the credit, the losses."""

    unify_strategy: Name
    switch_gate: int
    switch_gate_off: int
    switch_gate_rate: float | None
    switch_gate_off_rate: float | None
    on_remove_num: Count | None
    without_target: Literal["keep", "drop"]
    success: tuple[SuccessConfig, ...]
    soft: SoftConfig
    adaptive: AdaptiveConfig
    anneal: AnnealConfig
    n_prefix: int
    prefix: PrefixConfig
    prefix_reward_weight_alpha: float
    prefix_reward_weight_beta: float
    use_sft_prefix_reward: bool
    sft_prefix_reward_weight: float
    target_cut: Literal["drop", "truncate", "official"]
    groups: GroupsConfig
    overlong: OverlongConfig
    truncated: Literal["keep", "zero_credit", "mask"]
    reward_scale: RewardScaleConfig
    remove_sfted_data: bool
    offline_loss_type: Literal["sft", "off_policy", "off_sft", "switch_off_sft", "srft", "none"]
    sft_loss_coef: float
    off_loss_coef: float
    off_policy_loss_impl: Literal["token", "seq"]
    normalize: Literal["global", "official", "paper"]
    loss_agg: Literal["token", "sequence", "constant"]
    adv_estimator: Name
    grpo_use_std: bool
    adv_include_demo: bool
    whiten_advantages: bool
    gamma: float
    lam: float
    pass_k: Count
    srft: SrftConfig
    policy_loss: Name
    clip_ratio_low: float
    clip_ratio_high: float
    clip_ratio_dual: float
    correction: CorrectionConfig
    off_policy_reshape: Name
    off_policy_reshape_weight: float
    off_policy_reshape_pow_exp: float
    use_off_policy_probs: bool
    off_policy_max_clip: float | None
    off_policy_min_clip: float | None
    value_coef: float
    value_clip: float | None
    share_critic: bool
    entropy_coeff: float
    entropy_on_demo: bool
    entropy_ctrl: EntropyControlConfig
    use_kl_loss: bool
    kl_loss_coef: float
    kl_loss_type: Name
    kl_ctrl: KlControlConfig
    preference: PreferenceConfig


def needs_reference(algorithm: AlgorithmConfig) -> bool:
    """A KL term has a weight, in the loss or in the reward; then a run loads a reference model."""
    if algorithm.preference.loss is not None:
        return algorithm.preference.loss in COMPARED
    return (algorithm.use_kl_loss and algorithm.kl_loss_coef > 0) or algorithm.kl_ctrl.kl_coef > 0


def trains_critic(algorithm: AlgorithmConfig) -> bool:
    """A critic says what states are worth."""
    return algorithm.adv_estimator == "gae" and algorithm.preference.loss is None


def scores_rows(algorithm: AlgorithmConfig) -> bool:
    """The run trains a reward model: its head says numbers and no tokens."""
    return algorithm.preference.loss == OF_SCORES
