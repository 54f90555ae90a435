"""What a step's decisions were, for the log: one record per prompt, and how the batch is made up.

    uni/mean_p                                mean success rate P of the prompts that have a valid rollout
    uni/mean_alpha, _beta, _off               mean weights of rollouts, of imitation, of RL on targets, over the prompts
    uni/on_data_ratio, off_, sft_data_ratio   shares of the trained rows by what they are trained with; they add up to 1
    on_off_metrics/off_example_ratio          share of demonstrations among the trained rows
    on_off_metrics/on_score, off_score        mean score of trained rollouts, of demonstrations that were scored
    on_off_metrics/on_response_length_mean, off_response_length_mean        tokens, of both
    uni/prompts_ARM                           prompts by decision: explore, imitate, off_policy, blend, skipped, ...
    uni/successes/K                           prompts with K successes, for K from 0 to the most rollouts of a prompt
    uni/without_target, uni/without_rollout   prompts that could not imitate as decided; that lost every rollout

A demonstration that is trained with both RL and imitation counts in parts, by the two weights.

Invariants
    1. Numbers that need a prompt or a row are left out where there is none; no number is a not-a-number.
    2. The order of prompts and rows does not matter.

Example:
    >>> from hpt_megatron.algorithms.routing.decision import EXPLORE, IMITATE, Decision
    >>> outcomes = [Outcome(8, 0, prompt="a"), Outcome(8, 6, prompt="b")]
    >>> routing = Routing([Decision(IMITATE, drop=8, demo=True, arm="imitate"), Decision(EXPLORE)])
    >>> records(3, outcomes, routing)[0]["decision"], metrics(outcomes, routing)["uni/mean_p"]
    ('imitate', 0.375)
"""

from collections import Counter
from collections.abc import Sequence
from math import fsum
from typing import Any

import torch

from hpt_megatron.algorithms.routing.decision import Outcome, Routing
from hpt_megatron.protocol.rows import Rows


def records(step: int, outcomes: Sequence[Outcome], routing: Routing) -> list[dict[str, Any]]:
    """One record per prompt, ready for a line of JSON."""
    return [
        {
            "step": step,
            "uid": outcome.prompt,
            "n": outcome.n,
            "successes": outcome.k,
            "decision": decision.arm,
            "on": decision.mix.on,
            "off": decision.mix.off,
            "sft": decision.mix.sft,
            "removed": decision.drop,
            "demonstration": decision.demo,
            "mean_reward": outcome.reward,
        }
        for outcome, decision in zip(outcomes, routing.decisions, strict=True)
    ]


def metrics(outcomes: Sequence[Outcome], routing: Routing) -> dict[str, float]:
    """What the prompts of a step came to."""
    rates = [outcome.k / outcome.n for outcome in outcomes if outcome.n]
    mixes = [decision.mix for decision in routing.decisions]
    found = _mean("uni/mean_p", rates)
    for name, weights in (
        ("uni/mean_alpha", [mix.on for mix in mixes]),
        ("uni/mean_beta", [mix.sft for mix in mixes]),
        ("uni/mean_off", [mix.off for mix in mixes]),
    ):
        found |= _mean(name, weights)
    arms = Counter(decision.arm for decision in routing.decisions)
    found |= {f"uni/prompts_{arm}": float(count) for arm, count in sorted(arms.items())}
    rolled = Counter(outcome.k for outcome in outcomes if outcome.n)
    most = max((outcome.n for outcome in outcomes), default=0)
    if rolled:
        found |= {f"uni/successes/{k}": float(rolled[k]) for k in range(most + 1)}
    lost = {"uni/without_target": routing.without_target, "uni/without_rollout": routing.without_rollout}
    return found | {name: float(count) for name, count in lost.items()}


def composition(rows: Rows) -> dict[str, float]:
    """What the rows of a step are trained with; reads `off` and the three mixes."""
    demonstration = rows.fields["off"]
    on, off, sft = (rows.fields[f"mix_{kind}"].double() for kind in ("on", "off", "sft"))
    shares = {
        "on": ((on != 0) & ~demonstration).double(),
        "off": (off / (off + sft)).nan_to_num(0.0) * demonstration,
        "sft": (sft / (off + sft)).nan_to_num(0.0) * demonstration,
    }
    trained = float(sum(share.sum() for share in shares.values()))
    if not trained:
        return {}
    found = {f"uni/{name}_data_ratio": float(share.sum()) / trained for name, share in shares.items()}
    return found | {"on_off_metrics/off_example_ratio": found["uni/off_data_ratio"] + found["uni/sft_data_ratio"]}


def sides(rows: Rows) -> dict[str, float]:
    """Rollouts and demonstrations of a step apart; reads `response`, `off` and `score`."""
    lengths, score = rows.row_sum(rows.tokens["response"].double()), rows.fields["score"]
    found: dict[str, float] = {}
    for side, own in (("on", ~rows.fields["off"]), ("off", rows.fields["off"])):
        scored = score[own & torch.isfinite(score)]
        found |= _mean(f"on_off_metrics/{side}_response_length_mean", lengths[own].tolist())
        found |= _mean(f"on_off_metrics/{side}_score", scored.tolist())
    return found


def _mean(name: str, values: list[float]) -> dict[str, float]:
    return {name: fsum(values) / len(values)} if values else {}
