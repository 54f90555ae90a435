"""What each `reward.reward_impl_version` means.

    0  answer in a box after the thinking, compared as text and by sympy: 1 or 0
    1  the same, -0.5 for a wrong answer, -1 without thinking or box
    2  as 0, without thinking
    3  math-verify on what follows the thinking
    4  math-verify on the whole response
    5  the stated answer, boxed or not: text, numbers to 1e-4, sympy
    6  the box as text, by math-verify, by sympy: the default, and the released scripts' choice
    7  pages: 0 for a broken format, else 0.1 + 0.9 * NDCG; a success is a score above 0.1
    8  the search agent's mix: 0 for a broken format, else 0.7 * answer + 0.1 + 0.2 * NDCG
    9  the searcher's second phase: 0.8 * judge + 0.2 * NDCG; behind the format where `weights.format` is given
  100  and above: other packages'

Decision: a number is a function of the run's reward group, so that its constants are configuration. 0 to 6 are what
the released code scores, 7 and 9 come from its descendants with a search agent, 8 from VRAG. The component that says
whether the answer is right is called `accuracy` in all but 7, which has none.

Another package adds a number through an entry point:

    entry_points={"hpt_megatron.reward_numbers": ["100 = my_package.reward:mine"]}      def mine(reward) -> Composition

Invariants
    1. This is the only table; whoever wants to know which numbers exist asks `BY_NUMBER`.
    2. An unknown number is refused by listing the known ones.

Example:
    >>> BY_NUMBER.names()[:10] == [str(number) for number in range(10)]
    True
    >>> [part.name for part in named("geometry3k").parts]
    ['accuracy', 'format']
"""

from collections.abc import Callable
from typing import Any

from hpt_megatron.config.presets import PRESETS
from hpt_megatron.config.run import RewardConfig
from hpt_megatron.errors import UserError
from hpt_megatron.registry import Registry
from hpt_megatron.rewards.composition import TOTAL, Composition
from hpt_megatron.rewards.composition_file import read_composition

BY_NUMBER: Registry[Callable[[RewardConfig], Composition]] = Registry("reward number", "hpt_megatron.reward_numbers")
ANSWER = "accuracy"

MATHEMATICS: dict[str, dict[str, Any]] = {
    "0": {"think": "required", "equal": "sympy"},
    "1": {"think": "required", "equal": "sympy", "wrong": -0.5, "unformatted": -1.0},
    "2": {"equal": "sympy"},
    "3": {"think": "required", "extract": "text", "equal": "verify"},
    "4": {"extract": "text", "equal": "verify"},
    "5": {"extract": "stated", "equal": "sympy", "rel_tol": 1e-4},
    "6": {"equal": "any"},
}


def _mathematics(settings: dict[str, Any]) -> Callable[[RewardConfig], Composition]:
    part = {"name": "math", "as": ANSWER, "settings": settings}
    return lambda reward: read_composition({"components": [part], "success": {"all": [ANSWER]}})


for _number, _settings in MATHEMATICS.items():
    BY_NUMBER.add(_number)(_mathematics(_settings))


def _share(given: float | None, own: float) -> float:
    return own if given is None else given


@BY_NUMBER.add("7")
def retrieval(reward: RewardConfig) -> Composition:
    """The format as a gate; a success has found something."""
    formatted = _share(reward.weights.format, 0.1)
    return read_composition(
        {
            "components": [
                {"name": "format", "weight": formatted},
                {"name": "ndcg", "weight": _share(reward.weights.ndcg, 0.9)},
            ],
            "gate": ["format"],
            "success": {"all": [{"component": TOTAL, "op": ">", "value": formatted}]},
        }
    )


@BY_NUMBER.add("8")
def search_agent(reward: RewardConfig) -> Composition:
    """The answer by a judge, or by ANLS where no address of one is given."""
    judged = _judged(reward) if reward.judge.url else {"name": "anls", "as": ANSWER}
    return read_composition(
        {
            "components": [
                {**judged, "weight": _share(reward.weights.answer, 0.7)},
                {"name": "format", "weight": _share(reward.weights.format, 0.1)},
                {"name": "ndcg", "weight": _share(reward.weights.ndcg, 0.2)},
            ],
            "gate": ["format"],
            "success": {"all": [ANSWER]},
        }
    )


@BY_NUMBER.add("9")
def searcher(reward: RewardConfig) -> Composition:
    """The answer is another model's, who was shown what this policy found; a judge says whether it is right."""
    parts = [
        {**_judged(reward), "weight": _share(reward.weights.answer, 0.8)},
        {"name": "ndcg", "weight": _share(reward.weights.ndcg, 0.2)},
    ]
    gated = reward.weights.format is not None
    if gated:
        parts.append({"name": "format", "weight": reward.weights.format})
    return read_composition({"components": parts, "gate": ["format"] if gated else [], "success": {"all": [ANSWER]}})


def _judged(reward: RewardConfig) -> dict[str, Any]:
    return {"name": "llm_judge", "as": ANSWER, "settings": {"fallback": reward.judge.fallback}}


def named(name: str) -> Composition:
    """A preset by name."""
    if name not in PRESETS:
        raise UserError(f"no such reward preset: {name}", where="reward.preset", mend=f"one of {', '.join(PRESETS)}")
    return read_composition(PRESETS[name])
