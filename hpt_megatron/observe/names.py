"""Names that users know from the released code, beside ours: dashboards made for those go on showing curves.

In `metrics.jsonl` a number has one name. Trackers (TensorBoard, W&B, MLflow) get it under both.

Example:
    >>> with_known_names({"timing_s/generate": 2.0})
    {'timing_s/generate': 2.0, 'timing_s/gen': 2.0}
"""

from collections.abc import Mapping

_STAGES = {
    "generate": "gen",
    "advantage": "adv",
    "reference": "ref",
    "update": "update_actor",
    "validate": "testing",
    "save": "save_checkpoint",
}
KNOWN_AS = {
    **{f"timing_s/{own}": f"timing_s/{theirs}" for own, theirs in _STAGES.items()},
    **{f"timing_per_token_ms/{own}": f"timing_per_token_ms/{theirs}" for own, theirs in _STAGES.items()},
    "batch/solved": "batch/on_solved",
    "perf/tokens": "perf/total_num_tokens",
    "perf/tokens_per_s": "perf/throughput",
    "timing_s/step": "perf/time_per_step",
    "reward/mean": "reward/total",
}


def with_known_names(numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers, and those of them that have another name there once more under it."""
    return {**numbers, **{theirs: numbers[own] for own, theirs in KNOWN_AS.items() if own in numbers}}
