"""What a step's trajectories say about the agent, as numbers for the log.

Rates are over what they are rates of: valid actions over turns, repeated queries over searches, observation tokens
over tokens of the response. Trajectories that a failure of ours ended count in `agent/finish/*` and in no mean.

Example: metrics(trajectories)["agent/turns_mean"]
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from hpt_megatron.protocol.pages import canonical
from hpt_megatron.rewards.retrieval import ndcg, recall
from hpt_megatron.rollout.trajectory import Trajectory

LABELS = {"generate_s": "actor_generation", "tool_s": "tool_execution", "generator_s": "frozen_generator"}


def metrics(
    done: Sequence[Trajectory],
    references: Mapping[str, Sequence[str]] | None = None,
    search: Mapping[str, float] | None = None,
    prefixes: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """`references`: gold pages by uid; `search`: of the client (`Stats.metrics`); `prefixes`: of the agent."""
    told = {f"agent/finish/{name}": float(count) for name, count in sorted(Counter(o.finish for o in done).items())}
    valid = [one for one in done if one.valid]
    told["agent/valid_share"] = _share(len(valid), len(done))
    if valid:
        told |= _of_valid(valid)
        told |= _retrieval(valid, references or {})
    for key, label in LABELS.items():
        told[f"agent/seconds/{label}"] = sum(one.seconds.get(key, 0.0) for one in done)
    told |= {name: float(count) for name, count in (prefixes or {}).items()}
    return told | {f"search/{name}": value for name, value in (search or {}).items()}


def _of_valid(valid: Sequence[Trajectory]) -> dict[str, float]:
    def total(name: str) -> float:
        return sum(one.counters.get(name, 0.0) for one in valid)

    turns, searches = total("turns"), total("search")
    return {
        "agent/turns_mean": turns / len(valid),
        "agent/turns_max": max(one.counters.get("turns", 0.0) for one in valid),
        "agent/searches_per_trajectory": searches / len(valid),
        "agent/crops_per_trajectory": total("bbox") / len(valid),
        "agent/valid_action_rate": _share(total("valid_actions"), turns),
        "agent/invalid_rate": _share(total("invalid"), turns),
        "agent/multi_action_rate": _share(total("multi_action"), turns),
        "agent/repeated_query_rate": _share(total("repeated_queries"), searches),
        "agent/no_new_result_rate": _share(total("no_new_result"), searches),
        "agent/infra_events": total("infra_events"),
        "agent/observation_token_share": _share(total("observation_tokens"), sum(o.num_response for o in valid)),
        "agent/visual_tokens_per_trajectory": total("visual_tokens") / len(valid),
        "agent/sampled_tokens_mean": fmean(one.num_sampled for one in valid),
    }


def _retrieval(valid: Sequence[Trajectory], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    scored = [
        (list(dict.fromkeys(one.retrieved)), {canonical(page) for page in references[one.uid]})
        for one in valid
        if references.get(one.uid)
    ]
    if not scored:
        return {}
    return {
        "agent/recall": fmean(recall(pages, gold) for pages, gold in scored),
        "agent/ndcg": fmean(ndcg(pages, gold) for pages, gold in scored),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
