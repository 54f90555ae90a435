"""Which numbers of a run are drawn together, under which title, in which order.

Invariants
    1. A number is in one group: the first whose patterns name it.
    2. What no group names is not lost: it is drawn behind the others, under its own name.

Example:
    >>> [(group.title, names) for group, names in grouped(["reward/mean", "loss/rl", "loss/sft", "odd"])]
    [('Reward', ['reward/mean']), ('Loss of each component', ['loss/rl', 'loss/sft']), ('odd', ['odd'])]
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

MOST_TOGETHER = 6
USAGE = ("memory/", "util/")
ELSEWHERE = ("timing_s/", *USAGE)  # drawn in other sections
AXES = ("step", "of")


@dataclass(frozen=True)
class Group:
    """`patterns` are names in which `*` stands for anything; `note` says what the number is."""

    title: str
    patterns: tuple[str, ...]
    note: str = ""
    main: bool = True  # shown at once; others wait behind a click


GROUPS = (
    Group("Reward", ("reward/mean",), "mean over the rollouts of a step"),
    Group("Success", ("batch/solved",), "share of the rollouts"),
    Group("SFT share", ("uni/sft_data_ratio",), "of the trained rows"),
    Group("Accuracy on pairs", ("pairs/accuracy",), "share of the pairs of a step; before its update"),
    Group("Loss over pairs", ("pairs/loss",), "mean over the pairs of a step", main=False),  # it is `actor/loss`
    Group("Margin of pairs", ("pairs/margin",), "of the preferred answer over the rejected one"),
    Group("Preferred and rejected", ("pairs/chosen", "pairs/rejected"), "mean score, or summed log-prob"),
    Group("Validation: accuracy on pairs", ("val/pairs/accuracy", "val/pairs/accuracy/*"), "all, and by domain"),
    Group("Validation: calibration of pairs", ("val/pairs/ece", "val/pairs/brier"), "0 is best"),
    Group("Validation: AUC of scores", ("val/pairs/auc",), "any preferred answer above any rejected one"),
    Group("Validation: margin of pairs", ("val/pairs/margin",), "mean difference of scores"),
    Group("Validation: separation of scores", ("val/pairs/separation",), "of the means, in standard deviations"),
    Group("Pairs", ("pairs/count", "pairs/left_out", "pairs/without"), "of a step", main=False),
    Group("Validation: success", ("val/avg@*",), "mean, by data source"),
    Group("Validation: any of k", ("val/pass@*",), "by data source"),
    Group("Validation: score", ("val/mean_score", "val/mean_score/*"), "mean, by data source"),
    Group("Held-out demonstrations", ("val/demo_loss", "val/demo_loss/*"), "loss"),
    Group("Held-out base", ("val/base_loss",), "loss on what the model knew before"),
    Group("Forgetting", ("val/forgetting",), "by how much that loss lies above its beginning"),
    Group("Reward models", ("reward/learned/mean", "reward/learned/std"), "mean and spread over the rollouts"),
    Group("Reward models by head", ("reward/learned/*/mean", "reward/learned/*/std"), "over the rollouts"),
    Group("Reward models disagree", ("reward/disagreement",), "standard deviation between them"),
    Group("Best of the rollouts", ("reward/best_of_n",), "mean reward of each prompt's best one"),
    Group("Constraint", ("constraint/mean",), "mean of what has to hold"),
    Group("Constraint broken", ("constraint/broken",), "share of the rollouts"),
    Group("Price of the constraint", ("constraint/price",), "Lagrange multiplier"),
    Group("Reward by component", ("reward/component/*",), "means"),
    Group("Response length", ("agent/sampled_tokens_mean", "response_length/*"), "sampled tokens"),
    Group("Habits of responses", ("habits/*",), "what a judge may be pleased by"),
    Group("Entropy coefficient", ("entropy/coeff",), "of the bonus", main=False),
    Group("Entropy", ("entropy/*", "actor/entropy*")),
    Group("KL", ("kl/mean", "critic/kl", "actor/ppo_kl", "actor/kl_loss", "kl/*", "critic/kl_*")),
    Group("Gradient norm", ("*/grad_norm", "grad_norm/*")),
    Group("Loss of each component", ("loss/*",), "sums over the step"),
    Group("Token share of each component", ("token_share/*",), "of the trained tokens"),
    Group("Gradient share of each component", ("grad_share/*",), "of the squared norm"),
    Group("Loss", ("actor/loss", "critic/vf_loss")),
    Group("Learning rate", ("*/lr",)),
    Group("Prompts solved by all, by none", ("batch/solve_all", "batch/solve_none")),
    Group("Engine beside trainer", ("correction/abs_gap",), "mean gap of log-probs"),
    Group("Turns and tools", ("agent/turns_mean", "agent/searches_per_trajectory", "agent/crops_per_trajectory")),
    Group("Retrieval", ("agent/recall", "agent/ndcg")),
    Group("Prompts whose decision changed", ("uni/prompts_flipped",), "since their visit before"),
    Group("Decisions", ("uni/prompts_*",), "prompts of a step", main=False),
    Group("Idle seconds", ("idle_s/*",), "of a step, by role"),
    Group("Seconds of moves", ("move_s/*",), "to host memory and back, by model", main=False),
    Group("Tokens per second", ("perf/tokens_per_s",), "trained, over the whole step"),
)


OF_PAIRS = Group(
    "Sums over pairs", ("loss/*",), "weights times log-probs or scores: differentiated, and no loss", main=False
)
"""What `loss/COMPONENT` is in a run over pairs, whose loss is `pairs/loss`."""


def grouped(names: Iterable[str]) -> list[tuple[Group, list[str]]]:
    """Every name once; a group of many names is cut into several."""
    left = sorted(name for name in names if not name.startswith(ELSEWHERE) and name not in AXES)
    found: list[tuple[Group, list[str]]] = []
    paired = "pairs/loss" in left and not any(name.startswith("uni/") for name in left)
    for group in (OF_PAIRS, *GROUPS) if paired else GROUPS:
        own = [name for name in left if any(fnmatchcase(name, pattern) for pattern in group.patterns)]
        left = [name for name in left if name not in own]
        found += [(group, own[start : start + MOST_TOGETHER]) for start in range(0, len(own), MOST_TOGETHER)]
    return [*found, *((Group(name, (name,), main=False), [name]) for name in left)]


def short_label(name: str, names: list[str]) -> str:
    """What tells a name from the others of its group: without the start and the end that all share.

    >>> short_label("loss/rl", ["loss/rl", "loss/sft"]), short_label("kl/mean", ["kl/mean"])
    ('rl', 'kl/mean')
    >>> short_label("memory/a/host", ["memory/a/host", "memory/b/host"])
    'a'
    """
    if len(names) < 2:
        return name
    parts = [each.split("/") for each in names]
    start, end = _shared(parts), _shared([each[::-1] for each in parts])
    own = name.split("/")
    return "/".join(own[start : len(own) - end] or own[start:])


def _shared(parts: list[list[str]]) -> int:
    """How many of the first parts all have."""
    same = 0
    while all(len(each) > same + 1 and each[same] == parts[0][same] for each in parts):
        same += 1
    return same
