"""The unified view: every loss as one policy gradient, made of four parts.

    grad = E[ 1_stable * (1 / pi_ref) * A * grad pi ]        E over the tokens that are trained, with their weights

    mask        1_stable   switches the gradient off where an update is judged unsafe
    reference   pi_ref     the probability that a token is divided by: it need not be the policy that sampled
    advantage   A          how good the token was
    likelihood  grad pi    back-propagation through the likelihood, times the slope of a shape where there is one

As grad pi = pi grad log pi, a token's log-prob gradient is multiplied by mask * A * pi / pi_ref (* slope): its gradient
weight. It is that of the objective, so above 0 means that the token becomes more likely; times the token's own weight
in the loss it is -d loss / d log pi.

The numbers here come from these formulas, in plain Python, and not from the loss: they explain it, and a test holds the
two equal. `settings` is the loss component (or anything with its fields).

Example:
    >>> from types import SimpleNamespace
    >>> describe("kl").reference
    'pi'
    >>> row = Row([-1.0, -3.0], {"ref_logp": [-1.5, -2.0]})
    >>> gradient_weights("kl", row, SimpleNamespace(estimator="k2"))
    [-0.5, 1.0]
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log1p
from statistics import fmean
from typing import Any

from hpt_megatron.errors import UserError
from hpt_megatron.registry import Registry

LIMIT = 20.0  # of a log-ratio, see objective/ratio.py


@dataclass(frozen=True)
class FourParts:
    """The parts in words, and the formula of the gradient weight."""

    mask: str
    reference: str
    advantage: str
    likelihood: str
    weight: str


@dataclass(frozen=True)
class Row:
    """The tokens of one row: their log-probs, and the columns that the component reads."""

    logp: Sequence[float]
    columns: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Parts:
    """The parts of one token in numbers; `ratio` is pi / pi_ref, times a correction's factor and a shape's slope."""

    mask: float
    ratio: float
    advantage: float

    @property
    def weight(self) -> float:
        """What the token's log-prob gradient is multiplied by."""
        return self.mask * self.ratio * self.advantage


@dataclass(frozen=True)
class Unified:
    """One kind of loss component in the unified view."""

    words: FourParts
    parts: Callable[[Row, Any], list[Parts]]


UNIFIED: Registry[Unified] = Registry("loss component in the unified view", "hpt_megatron.unified")
_CREDIT = "A, the credit (adv_estimator)"
_OLD = "pi_old, the policy before the update; with a correction the engine's, up to its bound"
_CLIP = "0 where A > 0 and r > 1 + clip_high, or A < 0 and r < 1 - clip_low"
_WHOLE = "the whole distribution, not the sampled token"
PartsOf = Callable[[Row, Any], list[Parts]]


def _kind(
    name: str, mask: str, reference: str, advantage: str, likelihood: str, weight: str
) -> Callable[[PartsOf], PartsOf]:
    """A decorator that gives a kind of component its words and its numbers."""

    def named(parts: PartsOf) -> PartsOf:
        UNIFIED.add(name)(Unified(FourParts(mask, reference, advantage, likelihood, weight), parts))
        return parts

    return named


def describe(kind: str) -> FourParts:
    """The four parts of a kind of component, in words."""
    return UNIFIED.get(kind).words


def token_parts(kind: str, row: Row, settings: Any) -> list[Parts]:
    """The parts of every token of a row."""
    return UNIFIED.get(kind).parts(row, settings)


def gradient_weights(kind: str, row: Row, settings: Any) -> list[float]:
    """What the log-prob gradient of every token is multiplied by."""
    return [parts.weight for parts in token_parts(kind, row, settings)]


def _limited(log: float) -> float:
    return exp(min(log, LIMIT))


def _log_ratios(row: Row) -> list[float]:
    return [new - old for new, old in zip(row.logp, row.columns["old_logp"], strict=True)]


def _corrections(row: Row, correction: Any) -> list[float]:
    """The factor of every token for the gap between engine and trainer."""
    if correction.kind == "none":
        return [1.0] * len(row.logp)
    gaps = [new - old for new, old in zip(row.columns["old_logp"], row.columns["rollout_logp"], strict=True)]
    if correction.level != "token":
        gaps = [sum(gaps) if correction.level == "sequence" else fmean(gaps)] * len(gaps)
    rho = [_limited(gap) for gap in gaps]
    if correction.kind == "tis":
        return [min(one, correction.high) for one in rho]
    return [one if correction.low <= one <= correction.high else 0.0 for one in rho]


def _policy(row: Row, settings: Any, logs: Sequence[float], masked: Callable[[float, float], bool]) -> list[Parts]:
    """Parts of a loss on a ratio, masked where `masked(ratio, advantage)`."""
    factors = _corrections(row, settings.correction)
    return [
        Parts(float(log <= LIMIT and not masked(_limited(log), credit)), _limited(log) * factor, credit)
        for log, credit, factor in zip(logs, row.columns["credit"], factors, strict=True)
    ]


def _beyond(settings: Any) -> Callable[[float, float], bool]:
    """Where a clip switches a token off."""
    low, high = 1.0 - settings.clip_low, 1.0 + settings.clip_high
    return lambda ratio, credit: (credit > 0 and ratio > high) or (credit < 0 and ratio < low)


@_kind("none", "none", _OLD, _CREDIT, "grad pi", "A r, r = pi / pi_old")
def _unclipped(row: Row, settings: Any) -> list[Parts]:
    return _policy(row, settings, _log_ratios(row), lambda ratio, credit: False)


@_kind("clip", _CLIP, _OLD, _CREDIT, "grad pi", "mask A r, r = pi / pi_old")
def _clip(row: Row, settings: Any) -> list[Parts]:
    return _policy(row, settings, _log_ratios(row), _beyond(settings))


@_kind("dual_clip", f"{_CLIP}, or A < 0 and r > clip_dual", _OLD, _CREDIT, "grad pi", "mask A r, r = pi / pi_old")
def _dual_clip(row: Row, settings: Any) -> list[Parts]:
    beyond = _beyond(settings)
    return _policy(
        row,
        settings,
        _log_ratios(row),
        lambda ratio, credit: beyond(ratio, credit) or (credit < 0 and ratio > settings.clip_dual),
    )


@_kind(
    "gspo",
    mask=f"{_CLIP}, with s for r: whole rows",
    reference="pi (pi_old(row) / pi(row))^(1 / length)",
    advantage=_CREDIT,
    likelihood="grad pi",
    weight="mask A s, s = exp(mean over the row of log r)",
)
def _gspo(row: Row, settings: Any) -> list[Parts]:
    mean = fmean(_log_ratios(row))
    return _policy(row, settings, [mean] * len(row.logp), _beyond(settings))


@_kind(
    "cispo",
    mask="none: no token is dropped",
    reference=f"{_OLD}; beyond the bounds of r it is pi / bound (the CIS mask)",
    advantage=_CREDIT,
    likelihood="grad pi",
    weight="A clamp(r, 1 - clip_low, 1 + clip_high)",
)
def _cispo(row: Row, settings: Any) -> list[Parts]:
    low, high = 1.0 - settings.clip_low, 1.0 + settings.clip_high
    ratios = [min(max(_limited(log), low), high) for log in _log_ratios(row)]
    factors = _corrections(row, settings.correction)
    return [Parts(1.0, r * f, a) for r, f, a in zip(ratios, factors, row.columns["credit"], strict=True)]


@_kind("sft", "none", "pi", "1", "grad pi", "1")
def _sft(row: Row, settings: Any) -> list[Parts]:
    return [Parts(1.0, 1.0, 1.0)] * len(row.logp)


@_kind("srft_sft", "none", "pi", "scale exp(-H), H the entropy of the row", "grad pi", "scale exp(-H)")
def _srft_sft(row: Row, settings: Any) -> list[Parts]:
    return [Parts(1.0, 1.0, settings.scale * _limited(-fmean(row.columns["entropy"])))] * len(row.logp)


@_kind(
    "srft_rl",
    mask="0 for a failure below negative_floor; with clip_low and clip_high, as a clip of the ratio",
    reference="pi (form paper and minus_old), 1 (exp), pi_old (classic_rl)",
    advantage="scale exp(H) for a success, -1 for a failure; H the entropy of the row",
    likelihood="grad pi",
    weight="mask A (form paper)",
)
def _srft_rl(row: Row, settings: Any) -> list[Parts]:
    likelihood = settings.scale * _limited(fmean(row.columns["entropy"]))
    least = -inf if settings.clip_low is None else log1p(-settings.clip_low)
    most = inf if settings.clip_high is None else log1p(settings.clip_high)
    parts = []
    columns = zip(row.logp, row.columns["old_logp"], row.columns["success"], strict=True)
    for (logp, old, success), factor in zip(columns, _corrections(row, settings.correction), strict=True):
        inside = logp <= old + most if success else logp >= max(old + least, settings.negative_floor)
        ratio = {"exp": exp(logp), "classic_rl": _limited(logp - old)}.get(settings.form, 1.0)
        inside = inside and (settings.form != "classic_rl" or logp - old <= LIMIT)
        parts.append(Parts(float(inside), ratio * factor, likelihood if success else -1.0))
    return parts


def _saturating(constant: float) -> Callable[[float, float, float], tuple[float, float]]:
    return lambda log, weight, exponent: (
        exp(log) / (exp(log) + constant),
        exp(log) * constant / (exp(log) + constant) ** 2,
    )


# Shape of a log-probability, with the reshape weight and exponent: its value and its slope in the log-probability.
RESHAPES: dict[str, Callable[[float, float, float], tuple[float, float]]] = {
    "no_reshape": lambda log, weight, exponent: (exp(log), exp(log)),
    "logp": lambda log, weight, exponent: (weight * log, weight),
    "p_logp": lambda log, weight, exponent: (exp(log) + weight * log, exp(log) + weight),
    "square_root": lambda log, weight, exponent: (exp(log) ** 0.5, exp(log) ** 0.5 / 2),
    "pow": lambda log, weight, exponent: (exp(log) ** exponent, exponent * exp(log) ** exponent),
    "classic_reject_token": lambda log, weight, exponent: (1.0, 1.0),
    "p_div_p_0.1": _saturating(0.1),
    "p_div_p_0.3": _saturating(0.3),
    "p_div_p_0.5": _saturating(0.5),
}


@_kind(
    "off_policy",
    mask="0 where f is beyond min_clip or max_clip",
    reference="1; with target_probs the probability under what wrote the demonstration",
    advantage=_CREDIT,
    likelihood="f'(pi) grad pi, f the shape",
    weight="mask A pi f'(pi); no_reshape: A pi; p / (p + c): A pi c / (pi + c)^2",
)
def _off_policy(row: Row, settings: Any) -> list[Parts]:
    whole = settings.impl == "seq"
    logs = [fmean(row.logp)] * len(row.logp) if whole else list(row.logp)
    if settings.target_probs:
        targets = row.columns["target_logp"]
        targets = [fmean(targets)] * len(logs) if whole else targets
        values = [exp(log) / (exp(target) + 1e-6) for log, target in zip(logs, targets, strict=True)]
        shaped = [(value, value) for value in values]
    elif settings.reshape in RESHAPES:
        shape = RESHAPES[settings.reshape]
        shaped = [shape(log, settings.reshape_weight, settings.reshape_exponent) for log in logs]
    else:
        raise UserError(f"no formula is known for the shape {settings.reshape}", where="off_policy_reshape")
    if settings.reshape == "classic_reject_token" and not settings.target_probs:
        shaped = [
            (f * accept, slope * accept) for (f, slope), accept in zip(shaped, row.columns["accept"], strict=True)
        ]
    least = -inf if settings.min_clip is None else settings.min_clip
    most = inf if settings.max_clip is None else settings.max_clip
    credits = row.columns["credit"]
    return [Parts(float(least <= f <= most), slope, a) for (f, slope), a in zip(shaped, credits, strict=True)]


# d = log ref - log pi of a token -> the advantage that the KL loss gives it, and whether the estimator is held there.
KL: dict[str, Callable[[float], tuple[float, bool]]] = {
    "k1": lambda d: (-1.0, False),
    "k2": lambda d: (d, False),
    "k3": lambda d: (_limited(d) - 1, d > LIMIT),
    "low_var": lambda d: (_limited(d) - 1, _limited(d) - 1 - d > 10),
    "abs": lambda d: (float((d > 0) - (d < 0)), False),
    "mse": lambda d: (d, False),
}


@_kind(
    "kl",
    mask="0 where the estimator is held (k3: d > 20)",
    reference="pi",
    advantage="with d = log ref - log pi: k1 -1, k2 and mse d, k3 e^d - 1, abs sign of d; full: none for a token",
    likelihood=f"grad pi; full: {_WHOLE}",
    weight="mask A",
)
def _kl(row: Row, settings: Any) -> list[Parts]:
    if settings.estimator == "full":
        return _no_token(row, settings)
    if settings.estimator not in KL:
        raise UserError(f"no formula is known for the estimator {settings.estimator}", where="kl_loss_type")
    estimate = KL[settings.estimator]
    found = [estimate(ref - logp) for logp, ref in zip(row.logp, row.columns["ref_logp"], strict=True)]
    return [Parts(float(not held), 1.0, advantage) for advantage, held in found]


@_kind("entropy", "none", "none", "none for a token", _WHOLE, "0")
@_kind("value", "none", "none", "none: the critic learns, not the policy", "none", "0")
@_kind("score", "none", "none", "none: a reward model learns, not the policy", "none", "0")
def _no_token(row: Row, settings: Any) -> list[Parts]:
    return [Parts(1.0, 1.0, 0.0)] * len(row.logp)
