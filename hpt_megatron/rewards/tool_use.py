"""A bonus for tools that led to the right answer, and a price for searches beyond those that are free.

Decision: the bonus needs a right answer (as in DeepEyes). A bonus for the call alone teaches useless calls.

Invariants
    1. The score lies in [-most, bonus], and without a price it is 0 or the bonus.
    2. A tool that was used is the action of a turn; a tag in an observation is none, since no observation is seen.

Example:
    >>> right = Sample(turns=("<search>fox</search>", "<answer>red</answer>"), answer="red", golds=("red",))
    >>> ToolUse().score(right).score, ToolUse(free=0, price=0.25).score(right).score
    (1.0, 0.75)
"""

from dataclasses import dataclass

from hpt_megatron.errors import UserError
from hpt_megatron.rewards import by_name  # noqa: F401  (what says that an answer is right)
from hpt_megatron.rewards.component import COMPONENTS, Place, Result, Sample, place_of
from hpt_megatron.rewards.turns import can_be_done, first_action

NEVER = ("tool_use", "llm_judge", "code")  # itself, and what a run has to set up or to allow


@COMPONENTS.add("tool_use")
@dataclass(frozen=True)
class ToolUse:
    """`right` names the component that says whether the answer is right, with its default settings: a score of 1.

    `tools` are an agent's further tools beside search and bbox; a run fills them in.
    """

    right: str = "exact_match"
    bonus: float = 1.0
    free: int = 4
    price: float = 0.0
    most: float = 1.0
    tools: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.right in NEVER or self.right not in COMPONENTS.names():
            others = ", ".join(name for name in COMPONENTS.names() if name not in NEVER)
            raise UserError(f"no component {self.right!r} says what is right", where="right", mend=f"one of {others}")
        for key in ("bonus", "free", "price", "most"):
            if getattr(self, key) < 0:
                raise UserError(f"a negative {key}", where=key, mend="0 or more")

    @property
    def place(self) -> Place:
        """Where what says that the answer is right has to run."""
        return place_of(COMPONENTS.get(self.right)())

    def self_test(self) -> None:
        """That of the component inside, where it has one."""
        test = getattr(COMPONENTS.get(self.right)(), "self_test", None)
        if test is not None:
            test()

    def score(self, sample: Sample) -> Result:
        """Only actions that the environment can carry out count as used."""
        tools = tuple(self.tools)
        actions = [action for turn in sample.turns if (action := first_action(turn, tools))]
        done = [action.name for action in actions if can_be_done(action, tools)]
        searches = done.count("search")
        used = sum(name in ("search", "bbox", *tools) for name in done)
        judged = COMPONENTS.get(self.right)().score(sample)
        earned = self.bonus if used and judged.score >= 1.0 else 0.0
        fine = min(self.price * max(searches - self.free, 0), self.most)
        return Result(earned - fine, judged.flags, {"tools": float(used), "searches": float(searches)}, judged.valid)
