"""From configuration to the parts of an algorithm, but for its strategy (`routing/build.py`).

Each function reads the keys of one concern, so that what a key does is found by looking for its reader here.
"""

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpt_megatron.algorithms.credit.counted import trained_lengths
from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, Credit, CreditSettings, row_scores
from hpt_megatron.algorithms.credit.prefix_weight import weigh_prefix
from hpt_megatron.algorithms.credit.whiten import whiten_advantage
from hpt_megatron.algorithms.entropy_control import EntropyControl
from hpt_megatron.algorithms.gates import (
    Gate,
    MinimumValid,
    Mixed,
    Refill,
    RefillSettings,
    Spread,
    SuccessRate,
    TruncatedShare,
)
from hpt_megatron.algorithms.kl_control import Controller, KlSettings, make_controller
from hpt_megatron.algorithms.normalize.streams import coefficients
from hpt_megatron.algorithms.normalize.weights import global_weights, official_weights, paper_weights
from hpt_megatron.algorithms.objective import entropy, kl, off_policy, score, sft, srft, value
from hpt_megatron.algorithms.objective.correction import Correction
from hpt_megatron.algorithms.objective.pairwise import PAIRWISE, PairwiseLoss
from hpt_megatron.algorithms.objective.part import COMPONENTS, Component
from hpt_megatron.algorithms.outcome import counted_rollouts
from hpt_megatron.algorithms.prefix import PrefixSettings
from hpt_megatron.algorithms.reward_scale import RewardScale, RewardStatistics, rescale
from hpt_megatron.algorithms.shaping import Overlong, sft_prefix_credit, treat_truncated
from hpt_megatron.algorithms.target import TargetRules
from hpt_megatron.config.algorithm import OF_SCORES, POLICY_LOSSES, AlgorithmConfig, needs_reference, trains_critic
from hpt_megatron.config.run import DataConfig
from hpt_megatron.protocol.rows import Rows


def credit(rows: Rows, algorithm: AlgorithmConfig) -> Credit:
    """The credit of every token: the estimator, then whitening, then the weights of demonstration tokens.

    A row whose score is not a finite number counts as not valid: it gets 0 and moves no statistic.
    """
    settings = CreditSettings(
        use_std=algorithm.grpo_use_std,
        include_demo=algorithm.adv_include_demo,
        gamma=algorithm.gamma,
        lam=algorithm.lam,
        pass_k=algorithm.pass_k,
    )
    finite = torch.isfinite(row_scores(rows))
    reward = torch.where(rows.per_token(finite), rows.tokens["reward"], 0.0)
    rows = rows.with_tokens(reward=reward).with_fields(valid=rows.fields["valid"] & finite)
    earned = ESTIMATORS.get(algorithm.adv_estimator)(rows, settings)
    if algorithm.whiten_advantages:
        earned = whiten_advantage(rows, earned, settings)
    return weigh_prefix(rows, earned, algorithm.prefix_reward_weight_alpha, algorithm.prefix_reward_weight_beta)


def build_reward_scale(algorithm: AlgorithmConfig) -> RewardScale:
    """What is done to scores before the credit; reads the file of statistics, once."""
    reward_scale = algorithm.reward_scale
    low = -inf if reward_scale.r_min is None else reward_scale.r_min
    high = inf if reward_scale.r_max is None else reward_scale.r_max
    return RewardScale(
        statistics=None if reward_scale.statistics is None else RewardStatistics.load(Path(reward_scale.statistics)),
        batch=reward_scale.batch,
        length=reward_scale.length,
        clip=None if (low, high) == (-inf, inf) else (low, high),
    )


def scale_scores(rows: Rows, scale: RewardScale) -> tuple[Rows, dict[str, float]]:
    """Rows with their scores scaled; a score that is not a finite number, a demonstration's and a baseline's move no
    statistic.
    """
    score = rows.fields["score"]
    counted = counted_rollouts(rows) & torch.isfinite(score)
    scaled, metrics = rescale(score, trained_lengths(rows), counted, scale)
    return rows.with_fields(score=scaled), metrics


def credit_prefixes(rows: Rows, earned: Credit, algorithm: AlgorithmConfig, samples: int) -> Credit:
    """The fixed advantage of prefix tokens, where it is asked for; last of all, after `shape_truncated`."""
    if not algorithm.use_sft_prefix_reward:
        return earned
    weight = algorithm.sft_prefix_reward_weight
    return sft_prefix_credit(rows, earned, weight=weight, samples=samples, n_prefix=algorithm.n_prefix)


def build_components(algorithm: AlgorithmConfig) -> list[Component]:
    """The loss components of a run, each with the stream of weights that it reads."""
    if algorithm.preference.loss is not None:
        return [score.Score() if algorithm.preference.loss == OF_SCORES else sft.Sft()]
    components: list[Component] = [_policy_loss(algorithm), entropy.Entropy()]
    shown = algorithm.offline_loss_type
    if shown != "none":
        components.append(srft.SrftSft(scale=algorithm.srft.sft_scale) if shown == "srft" else sft.Sft())
        components.append(_off_policy(algorithm))
    if algorithm.use_kl_loss:
        components.append(kl.Kl(estimator=algorithm.kl_loss_type))
    if trains_critic(algorithm):
        components.append(value.Value(clip=algorithm.value_clip))
    return components


def build_preference(algorithm: AlgorithmConfig) -> PairwiseLoss:
    """The loss over pairs, with those of its settings that it has."""
    preference = algorithm.preference
    beta = {} if preference.beta is None else {"beta": preference.beta}
    settings: dict[str, dict[str, Any]] = {
        "dpo": {**beta, "label_smoothing": preference.label_smoothing},
        "ipo": beta,
        "simpo": {**beta, "gamma": preference.gamma},
        "orpo": {"odds_coef": preference.odds_coef},
        "kto": {**beta, "desirable": preference.desirable, "undesirable": preference.undesirable},
        "bradley_terry": {"margin": preference.margin, "center": preference.center},
    }
    name = preference.loss or ""
    made: PairwiseLoss = PAIRWISE.get(name)(**settings.get(name, {}))
    return made


def build_models(algorithm: AlgorithmConfig) -> list[str]:
    """The models that a run loads: a reference only where a KL term has a weight, a critic only for gae."""
    return [
        "policy",
        *["reference"] * needs_reference(algorithm),
        *["critic"] * (trains_critic(algorithm) and not algorithm.share_critic),
    ]


def _policy_loss(algorithm: AlgorithmConfig) -> Component:
    if algorithm.policy_loss not in POLICY_LOSSES:  # another package's: it reads its own settings
        plugged: Component = COMPONENTS.get(algorithm.policy_loss)(algorithm)
        return plugged
    correction = Correction(
        kind=algorithm.correction.kind,
        level=algorithm.correction.level,
        low=algorithm.correction.low,
        high=algorithm.correction.high,
    )
    clips = {"clip_low": algorithm.clip_ratio_low, "clip_high": algorithm.clip_ratio_high}
    settings: dict[str, dict[str, Any]] = {
        "clip": clips,
        "dual_clip": {**clips, "clip_dual": algorithm.clip_ratio_dual},
        "gspo": clips,
        "cispo": clips,
        "srft_rl": _srft_rl(algorithm),
    }
    made: Component = COMPONENTS.get(algorithm.policy_loss)(
        correction=correction, **settings.get(algorithm.policy_loss, {})
    )
    return made


def _srft_rl(algorithm: AlgorithmConfig) -> dict[str, Any]:
    srft = algorithm.srft
    return {
        "form": srft.type,
        "scale": srft.on_scale,
        "clip_low": algorithm.clip_ratio_low if srft.clip else None,
        "clip_high": algorithm.clip_ratio_high if srft.clip else None,
        "negative_floor": -inf if srft.negative_floor is None else srft.negative_floor,
    }


def _off_policy(algorithm: AlgorithmConfig) -> Component:
    return off_policy.OffPolicy(
        reshape=algorithm.off_policy_reshape,
        reshape_weight=algorithm.off_policy_reshape_weight,
        reshape_exponent=algorithm.off_policy_reshape_pow_exp,
        impl=algorithm.off_policy_loss_impl,
        target_probs=algorithm.use_off_policy_probs,
        max_clip=algorithm.off_policy_max_clip,
        min_clip=algorithm.off_policy_min_clip,
    )


def build_weights(
    rows: Rows,
    algorithm: AlgorithmConfig,
    longest_response: int,
    micro_batch: Tensor,
    ranks: int,
    entropy: float | None = None,
) -> dict[str, Tensor]:
    """The weight of every token in every component; `official` alone looks at micro-batches and ranks.

    `entropy` is the coefficient of the moment, where it is not the one of the configuration.
    """
    chosen = coefficients(algorithm, longest_response, entropy)
    if algorithm.normalize == "official":
        return official_weights(rows, chosen, micro_batch, ranks)
    return paper_weights(rows, chosen) if algorithm.normalize == "paper" else global_weights(rows, chosen)


def build_entropy_control(algorithm: AlgorithmConfig) -> EntropyControl:
    """What moves the coefficient of the entropy bonus."""
    entropy_ctrl = algorithm.entropy_ctrl
    return EntropyControl(
        low=algorithm.entropy_coeff,
        high=entropy_ctrl.high,
        step=entropy_ctrl.step,
        target=entropy_ctrl.target,
    )


def build_controller(algorithm: AlgorithmConfig) -> Controller:
    """The controller of the KL penalty in the reward."""
    kl_ctrl = algorithm.kl_ctrl
    settings = KlSettings(
        kl_coef=kl_ctrl.kl_coef,
        target_kl=kl_ctrl.target_kl,
        horizon=kl_ctrl.horizon,
        low=kl_ctrl.low,
        high=kl_ctrl.high,
        update_period=kl_ctrl.update_period,
    )
    return make_controller(kl_ctrl.type, settings)


def kl_estimator(algorithm: AlgorithmConfig) -> Callable[..., Any]:
    """The estimator of the KL penalty in the reward."""
    return kl.KL_ESTIMATORS.get(algorithm.kl_ctrl.estimator)


def build_gates(algorithm: AlgorithmConfig) -> list[Gate]:
    """The gates that a group must pass to be trained on."""
    groups = algorithm.groups
    gates: list[Gate] = [MinimumValid(groups.min_valid), SuccessRate(groups.success_low, groups.success_high)]
    if groups.mixed:
        gates.append(Mixed())
    if groups.spread_above is not None:
        gates.append(Spread(groups.spread_above))
    if groups.truncated_at_most is not None:
        gates.append(TruncatedShare(groups.truncated_at_most))
    return gates


def build_refill(algorithm: AlgorithmConfig, wanted: int, most_at_once: int) -> Refill:
    """The bookkeeping of further rounds for groups that the gates left out."""
    groups = algorithm.groups
    return Refill(RefillSettings(wanted=wanted, max_rounds=groups.max_rounds, max_draw=most_at_once))


def shape_truncated(rows: Rows, earned: Credit, cut: Tensor, algorithm: AlgorithmConfig) -> tuple[Rows, Credit]:
    """What becomes of responses that were cut off at the longest."""
    return treat_truncated(rows, earned, cut, algorithm.truncated)


def build_overlong(algorithm: AlgorithmConfig, longest_response: int) -> Overlong | None:
    """The penalty on long responses, where there is one."""
    overlong = algorithm.overlong
    if overlong.factor == 0:
        return None
    buffer = round(overlong.buffer_share * longest_response)
    return Overlong(max_length=longest_response, buffer=buffer, factor=overlong.factor)


def build_target_rules(algorithm: AlgorithmConfig, data: DataConfig, eos: int, pad: int | None) -> TargetRules:
    """How the tokens of a target become those of a demonstration."""
    return TargetRules(
        eos=eos, pad=pad, limit=data.max_prefix_len, cut=algorithm.target_cut, longest=data.max_response_length
    )


def build_prefix(algorithm: AlgorithmConfig, seed: int) -> PrefixSettings:
    """How much of their target the rows set aside start from."""
    prefix = algorithm.prefix
    return PrefixSettings(
        strategy=prefix.strategy,
        n_prefix=algorithm.n_prefix,
        min_ratio=prefix.min_ratio,
        max_ratio=prefix.max_ratio,
        steps=prefix.steps,
        share=prefix.share,
        seed=seed,
    )
