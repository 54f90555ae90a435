"""What must hold across the keys of a run: small functions, one per fact, each yielding its problems.

A rule never raises and never stops another rule; every problem says the value, why it is wrong and what would be
right. Adding a rule is adding a function `check_*(run)` to the file of its subject; `check` finds it there.
"""

from collections.abc import Callable, Iterator

from hpt_megatron.config.problem import Problem
from hpt_megatron.config.rules import agent, algorithm, batch, data, layout, model, preference, reward, rollout, trainer
from hpt_megatron.config.run import RunConfig

RULES: list[Callable[[RunConfig], Iterator[Problem]]] = [
    rule
    for subject in (model, layout, batch, data, algorithm, preference, reward, rollout, agent, trainer)
    for name, rule in vars(subject).items()
    if name.startswith("check_")
]


def check(run: RunConfig) -> list[Problem]:
    """Every violation of a run, in the order of the subjects."""
    return [problem for rule in RULES for problem in rule(run)]
