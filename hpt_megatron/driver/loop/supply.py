"""The prompts of a run and the order in which they come, as one thing.

    supply = Supply(prompts, sampler)
    supply.take(16)                      prompts
    supply.state()                       plain JSON; `restore` goes on with the very next one

Prompts can be taken ahead of their step: `ahead` keeps their names, and a run that goes on takes those first.
"""

from collections.abc import Sequence
from typing import Any

from hpt_megatron.data.prompts import Prompt, Prompts
from hpt_megatron.data.samplers import Sampler


class Supply:
    """See the module."""

    def __init__(self, prompts: Prompts, sampler: Sampler) -> None:
        self.prompts, self.sampler = prompts, sampler
        self.ahead: list[str] = []

    def take(self, count: int) -> list[Prompt]:
        """The next ones; those taken ahead first, if they are as many."""
        names, self.ahead = self.ahead, []
        return self.named(names if len(names) == count else self.sampler.take(count))

    def take_ahead(self, count: int) -> list[Prompt]:
        """Those that the next `take` is to give."""
        self.ahead = self.ahead if len(self.ahead) == count else self.sampler.take(count)
        return self.named(self.ahead)

    def named(self, names: Sequence[str]) -> list[Prompt]:
        """Some of them."""
        return [self.prompts[name] for name in names]

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"sampler": self.sampler.state(), "prompts": self.prompts.state(), "ahead": list(self.ahead)}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        self.sampler.restore(state["sampler"])
        self.prompts.restore(state["prompts"])
        self.ahead = list(state["ahead"])
