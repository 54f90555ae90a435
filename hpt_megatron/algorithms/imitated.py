"""`remove_sfted_data`: prompts whose target took the place of rollouts are left out of later epochs.

A prompt counts as imitated when a decision removes rollouts of it and makes its target a row (`demo` and `drop` above
0): both lower arms of `switch`, the end of a `soft` table without rollouts, and `adaptive` where it imitates. A blend
that keeps all rollouts does not count, nor does a prompt whose target was missing.

It stays in the order of its own epoch and goes when the next one starts, as in the released code. What differs from
there: prompts are known by the id that `Outcome.prompt` carries, not by their place in a table that shrinks, so several
files and a changed order do no harm; what was removed is part of the saved state; and a removal that would leave less
than one batch waits, instead of an epoch without a step.

Invariants
    1. The prompts of an epoch depend on its number, the ids and the state alone: asking again, also after a resume in
       the middle of the epoch, answers the same.
    2. The order of those that stay is the order that was given.
    3. A prompt that was removed never comes back; one that waits is never forgotten.
    4. The state is plain JSON.

Example:
    >>> from hpt_megatron.algorithms.routing.decision import EXPLORE, IMITATE
    >>> ledger = ImitatedPrompts()
    >>> ledger.start_epoch(0, ["a", "b", "c"], least=1)
    ['a', 'b', 'c']
    >>> decisions = [Decision(IMITATE, drop=8, demo=True), Decision(EXPLORE)]
    >>> ledger.observe([Outcome(8, 0, prompt="b"), Outcome(8, 3, prompt="c")], decisions)
    >>> ledger.start_epoch(0, ["a", "b", "c"], least=1), ledger.start_epoch(1, ["a", "b", "c"], least=1)
    (['a', 'b', 'c'], ['a', 'c'])
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hpt_megatron.algorithms.routing.decision import Decision, Outcome
from hpt_megatron.errors import HptError


@dataclass
class ImitatedPrompts:
    """Which prompts are out, and which go when the next epoch starts."""

    epoch: int = -1
    removed: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)

    def observe(self, outcomes: Sequence[Outcome], decisions: Sequence[Decision]) -> None:
        """Takes in the decisions of a step."""
        for outcome, decision in zip(outcomes, decisions, strict=True):
            if not (decision.demo and decision.drop):
                continue
            if not outcome.prompt:
                raise HptError("a prompt without an id was imitated; removing it would remove every such prompt")
            self.waiting.add(outcome.prompt)

    def start_epoch(self, epoch: int, prompts: Sequence[str], least: int) -> list[str]:
        """The prompts of this epoch; what waited goes first, if at least `least` (a batch) are left then."""
        if epoch > self.epoch:
            self.epoch = epoch
            gone = self.removed | self.waiting
            if sum(prompt not in gone for prompt in prompts) >= least:
                self.removed, self.waiting = gone, set()
        return [prompt for prompt in prompts if prompt not in self.removed]

    def counts(self) -> dict[str, int]:
        """What there is to log."""
        return {"data/sfted_removed": len(self.removed), "data/sfted_waiting": len(self.waiting - self.removed)}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; the same for the same sets."""
        return {"epoch": self.epoch, "removed": sorted(self.removed), "waiting": sorted(self.waiting)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.epoch, self.removed, self.waiting = state["epoch"], set(state["removed"]), set(state["waiting"])
