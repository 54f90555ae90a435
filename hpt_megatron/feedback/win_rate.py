"""How often the responses of one model beat those of another at the same prompts: a run against an earlier checkpoint.

By score, every response of one is compared with every one of the other; a prompt's win is the share of those
comparisons that A wins. By a judge, the first response of each with that of the other, in both orders; replies that
contradict each other are a tie, and counted. Then, by data source, the means over prompts:

    win_rate = wins + ties / 2, with Wilson's interval over the prompts: 0.5 is where neither is better

Invariants
    1. Every prompt counts the same, however many responses it has.
    2. What was not scored takes no part; a prompt that only one of the two has is counted.

Example: `told(by_score(pairs), "score")["all"]["win_rate"]`
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from hpt_megatron.data.record import Record
from hpt_megatron.errors import UserError
from hpt_megatron.feedback.agreement import wilson
from hpt_megatron.feedback.asking import Asking, answered
from hpt_megatron.feedback.compare import BETTER, FIRST, NOTHING, SECOND, SPLIT, Compared, compared, places
from hpt_megatron.feedback.written import Response, Written, responses, steps_of
from hpt_megatron.observe.pass_rates import ALL, UNNAMED
from hpt_megatron.rewards.component import ComponentError


@dataclass(frozen=True)
class Duel:
    """The responses of two models to one prompt, both at least one."""

    uid: str
    source: str
    one: Sequence[Response]
    other: Sequence[Response]


@dataclass(frozen=True)
class Outcome:
    """Shares of comparisons at one prompt; they add up to 1."""

    source: str
    wins: float
    ties: float
    losses: float


@dataclass(frozen=True)
class Judged:
    """How a judge is asked; `most` prompts are drawn by the seed, all without it."""

    most: int | None = None
    seed: int = 0
    images: bool = True
    principle: str = BETTER
    skip_failed: bool = False


def step_of(given: Written, purpose: str, step: int | None) -> int:
    """The one that is asked for, else the last one of which there are responses."""
    known = steps_of(given, purpose)
    if not known:
        raise UserError(f"has no responses of {purpose}", where=str(given.folder))
    if step is not None and step not in known:
        shown = ", ".join(map(str, known[-5:]))
        raise UserError(
            f"has no responses of {purpose} at step {step}", where=str(given.folder), mend=f"one of {shown}"
        )
    return known[-1] if step is None else step


def scored(given: Written, purpose: str, step: int) -> dict[str, list[Response]]:
    """The responses that count, by prompt, in the order of their samples."""
    found: defaultdict[str, list[Response]] = defaultdict(list)
    for one in responses(given, purpose, [step]):
        if one.valid and one.total is not None:
            found[one.uid].append(one)
    return {uid: sorted(own, key=lambda one: one.sample) for uid, own in found.items()}


def duels(
    one: Mapping[str, list[Response]], other: Mapping[str, list[Response]], sources: Mapping[str, str]
) -> list[Duel]:
    """The prompts that both have; an error where there is none."""
    both = [Duel(uid, sources.get(uid, ""), one[uid], other[uid]) for uid in one if uid in other]
    if not both:
        what = f"have no prompt in common ({len(one)} and {len(other)})"
        raise UserError(what, where="A and B", mend="evaluate both at the same files")
    return both


def check_same(pairs: Sequence[Duel], one: Mapping[str, Record], other: Mapping[str, Record]) -> None:
    """Refuses two evaluations whose prompts share a name and nothing else."""
    for duel in pairs:
        if duel.uid in one and duel.uid in other and one[duel.uid].prompt != other[duel.uid].prompt:
            what = f"the prompt {duel.uid[:100]!r} is not the same in both"
            raise UserError(what, where="A and B", mend="evaluate both at the same files")


def by_score(pairs: Sequence[Duel]) -> list[Outcome]:
    """Every response with every one of the other side."""
    found = []
    for duel in pairs:
        signs = [(a.total or 0.0) - (b.total or 0.0) for a in duel.one for b in duel.other]
        wins, losses = fmean(sign > 0 for sign in signs), fmean(sign < 0 for sign in signs)
        found.append(Outcome(duel.source, wins, 1 - wins - losses, losses))
    return found


def by_judge(
    pairs: Sequence[Duel], records: Mapping[str, Record], how: Judged, asking: Asking
) -> tuple[list[Outcome], dict[str, Any]]:
    """First responses, and what became of what decides nothing."""
    known = [duel for duel in pairs if duel.uid in records]
    if not known:
        raise UserError("none of the prompts is in the data files", where="A and B", mend="give them with --data FILE")
    if how.most is not None and how.most < len(known):
        known = random.Random(f"{how.seed}/win_rate").sample(known, how.most)

    def work(duel: Duel) -> Compared:
        texts = duel.one[0].text, duel.other[0].text
        return compared(asking, records[duel.uid], how.principle, texts, seed=how.seed, images=how.images)

    results = asking.each(known, work)
    answered(results, how.skip_failed)
    found: list[Outcome] = []
    said: list[Compared] = []
    for duel, result in zip(known, results, strict=True):
        if isinstance(result, ComponentError) or result.outcome == NOTHING:
            continue
        said.append(result)
        wins, losses = float(result.outcome == FIRST), float(result.outcome == SECOND)
        found.append(Outcome(duel.source, wins, 1 - wins - losses, losses))
    if not found:
        raise UserError("the judge decided nothing", where="--judge", mend="look at what it replies: --dry-run")
    split = sum(one.outcome == SPLIT for one in said)
    return found, {"asked": len(known), "unclear": len(known) - len(found), "split": split, "position": places(said)}


def told(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """By data source, and of all together where there are several."""
    groups: defaultdict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        groups[one.source or UNNAMED].append(one)
    found = {source: _of(groups[source]) for source in sorted(groups)}
    return found if len(found) < 2 else {**found, ALL: _of(outcomes)}


def _of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    wins, ties = fmean(one.wins for one in outcomes), fmean(one.ties for one in outcomes)
    rate = wins + ties / 2
    return {
        "prompts": len(outcomes),
        "wins": wins,
        "ties": ties,
        "losses": fmean(one.losses for one in outcomes),
        "win_rate": rate,
        "interval": wilson(rate, len(outcomes)),
    }
