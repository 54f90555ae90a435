"""`soft`: every prompt keeps its rollouts and its target; a table says by the successes how much each weighs.

A table holds one mix per success count 0 ... m. For another number of rollouts than m it is read at the same success
rate, between its points linearly.

The three published tables count the demonstration as a success: their entry 1 means that no rollout succeeded, and
entry 0 that the demonstration failed too. `count_includes_demo` reads any table so: from entry 1 on where the
demonstration is right, up to the last but one where it is wrong. By default only rollouts count, and a published table
is read from its entry 1 on.

Example: with the table `published_0` and 7 rollouts of which 2 succeed, rollouts weigh 0.25, RL on the target 1 and
imitation 0.25.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hpt_megatron.algorithms.routing.decision import Decision, Mix, Outcome, Stateless
from hpt_megatron.errors import UserError

_ON = (1.0, 0.0, 0.125, 0.25, 0.5, 1.0, 1.0, 1.0, 1.0)
_SFT = (1.0, 1.0, 0.5, 0.25, 0.125, 0.0, 0.0, 0.0, 0.0)
_OFF = {
    "published_0": (1.0, 0.0, 0.5, 1.0, 0.5, 0.25, 0.125, 0.0, 0.0),
    "published_1": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "published_2": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
PUBLISHED = {name: tuple(Mix(*mix) for mix in zip(_ON, off, _SFT, strict=True)) for name, off in _OFF.items()}


@dataclass(frozen=True)
class Soft(Stateless):
    """A table over success counts; `shifted` marks one whose entry 1 means no success of a rollout."""

    table: tuple[Mix, ...]
    count_includes_demo: bool = False
    shifted: bool = False

    def decide(self, outcome: Outcome) -> Decision:
        """The mix at the prompt's success rate."""
        table = self.table[1:] if self.shifted else self.table
        if self.count_includes_demo:
            table = self.table[1:] if outcome.demo_right else self.table[:-1]
        mix = at_rate(table, outcome.k, outcome.n)
        drop = outcome.n if mix.on == 0 else 0
        demo = mix.off > 0 or mix.sft > 0
        return Decision(mix, drop=drop, demo=demo, arm="explore" if not demo else "blend" if mix.on else "imitate")


def soft_table(name: str | Sequence[Sequence[float]]) -> tuple[tuple[Mix, ...], bool]:
    """A table by the name of a published one, or as rows of (on, off, sft); and whether it is shifted."""
    if isinstance(name, str):
        if name not in PUBLISHED:
            raise UserError(
                f"no such table: {name}", where="algorithm.soft.table", mend=f"one of {', '.join(PUBLISHED)}"
            )
        return PUBLISHED[name], True
    return tuple(Mix(*row) for row in name), False


def at_rate(table: Sequence[Mix], count: int, total: int) -> Mix:
    """The table at the rate count / total.

    >>> at_rate([Mix(0, 0, 1), Mix(1, 0, 0)], 1, 4)
    Mix(on=0.25, off=0.0, sft=0.75)
    """
    place = count * (len(table) - 1) / total
    low = min(int(place), len(table) - 2) if len(table) > 1 else 0
    share = place - low
    ends = table[low], table[min(low + 1, len(table) - 1)]
    return Mix(*(getattr(ends[0], key) * (1 - share) + getattr(ends[1], key) * share for key in ("on", "off", "sft")))
