"""AI feedback: a judge says by principles which answer is better, and pairs on which it agrees with itself become rows.

    row -> pairs of its answers -> for each principle that is asked: both orders -> for, against, split, tie, unclear

A pair becomes a preference row where more principles are for one answer than for the other. It has the schema of all
our pairs (the better answer is the target, the other one `extra_info.rejected`), and in `extra_info`

    principle   the id of the principle that decided; several with `+` between them
    votes       how many principles were for the answer, against it, split, tied, unclear
    margin      (for - against) / asked, above 0 and at most 1
    debate      with `rounds`, what was argued for the better answer and for the other one, in its order
    judge       the model that was asked

Example: `label(cases, principles, Labels(), asking).rows`
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from hpt_megatron.data.files import Row
from hpt_megatron.data.record import Message, Record
from hpt_megatron.data.rows import row_of
from hpt_megatron.feedback.asking import UNCLEAR, Asking, answered
from hpt_megatron.feedback.cases import REJECTED, Case, usable
from hpt_megatron.feedback.compare import FIRST, NOTHING, SECOND, SPLIT, TIE, Compared, compared, places, question
from hpt_megatron.feedback.constitution import Principle, drawn
from hpt_megatron.feedback.debate import Debate, argued, request
from hpt_megatron.rewards.component import ComponentError


@dataclass(frozen=True)
class Labels:
    """How pairs are judged; `principles` is how many are drawn for each, 0 for all."""

    principles: int = 1
    pairs: int = 3  # at most, of a row with more than two answers
    seed: int = 0
    rounds: int = 0  # of a debate before each decision
    images: bool = True
    skip_failed: bool = False


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt; `given`: the first one was preferred already."""

    record: Record
    answers: tuple[str, str]
    given: bool


@dataclass(frozen=True)
class Labelled:
    """The rows, and what became of everything else."""

    rows: list[Row]
    counts: dict[str, Any] = field(default_factory=dict)


def pairs_of(cases: Sequence[Case], how: Labels) -> list[Pair]:
    """Two answers at a time, at most `how.pairs` of a row, chosen by chance where there are more."""
    found = []
    for case in cases:
        both = list(combinations(case.answers, 2))
        if len(both) > how.pairs:
            both = random.Random(f"{how.seed}/pairs/{case.record.index}").sample(both, how.pairs)
        for number, answers in enumerate(both):
            index = case.record.index if len(both) == 1 else f"{case.record.index}/{number}"
            found.append(Pair(replace(case.record, index=index), answers, case.given))
    return found


def first_request(pair: Pair, principles: Sequence[Principle], how: Labels, asking: Asking) -> dict[str, Any]:
    """What would be asked first."""
    principle = _asked(pair, principles, how)[0]
    if how.rounds:
        talk = request(pair.record, principle.text, pair.answers, 0, (), how.images)
    else:
        talk = question(pair.record, principle.text, *pair.answers, how.images)
    return asking.judge.request(talk, how.seed)


def label(pairs: Sequence[Pair], principles: Sequence[Principle], how: Labels, asking: Asking) -> Labelled:
    """Asks about every pair; raises where questions stay without an answer, unless they are to be skipped."""

    def verdicts(pair: Pair) -> list[tuple[Principle, Compared]]:
        return [(one, _decided(pair, one, how, asking)) for one in _asked(pair, principles, how)]

    results = asking.each(pairs, verdicts)
    answered(results, how.skip_failed)
    rows: list[Row] = []
    counts: Counter[str] = Counter(dict.fromkeys(("labelled", SPLIT, TIE, NOTHING, "failed"), 0))
    given: Counter[bool] = Counter()
    every: list[tuple[Principle, Compared]] = []
    for pair, result in zip(pairs, results, strict=True):
        if isinstance(result, ComponentError):
            counts[NOTHING if result.flag == UNCLEAR else "failed"] += 1
            continue
        every += result
        row, outcome = _row(pair, result, asking.judge.settings.model)
        counts["labelled" if row else outcome] += 1
        if row:
            rows.append(row)
            if pair.given:
                given[outcome == FIRST] += 1
    told: dict[str, Any] = {"pairs": len(pairs), **counts, "by_principle": _by_principle(every)}
    told["position"] = places([one for _, one in every])
    if given:
        told["agrees_with_given"] = {"of": given.total(), "share": given[True] / given.total()}
    return Labelled(rows, told)


def _decided(pair: Pair, principle: Principle, how: Labels, asking: Asking) -> Compared:
    one, other = pair.answers
    if not how.rounds or one == other:
        return compared(asking, pair.record, principle.text, pair.answers, seed=how.seed, images=how.images)
    debate = Debate(how.rounds, how.seed, how.images)
    said = argued(asking, pair.record, principle.text, pair.answers, debate)
    told = compared(asking, pair.record, principle.text, pair.answers, seed=how.seed, images=how.images, arguments=said)
    return replace(told, arguments=said)


def _asked(pair: Pair, principles: Sequence[Principle], how: Labels) -> list[Principle]:
    return drawn(principles, how.principles, how.seed, pair.record.index) if how.principles else list(principles)


def _row(pair: Pair, found: Sequence[tuple[Principle, Compared]], model: str) -> tuple[Row | None, str]:
    """The row of a pair and which answer is better; None where the principles decide nothing, and why."""
    votes = Counter(one.outcome for _, one in found)
    ahead = votes[FIRST] - votes[SECOND]
    if not ahead:
        return None, max((SPLIT, TIE, NOTHING), key=lambda kind: votes[kind]) if not votes[FIRST] else SPLIT
    better, worse = (FIRST, SECOND) if ahead > 0 else (SECOND, FIRST)
    chosen, rejected = pair.answers if ahead > 0 else pair.answers[::-1]
    extra = {
        **pair.record.extra,
        REJECTED: [{"role": "assistant", "content": usable(rejected)}],
        "principle": "+".join(principle.id for principle, one in found if one.outcome == better),
        "votes": {
            "for": votes[better],
            "against": votes[worse],
            "split": votes[SPLIT],
            "tie": votes[TIE],
            "unclear": votes[NOTHING],
        },
        "margin": abs(ahead) / len(found),
        "judge": model,
    }
    debate = [
        {"principle": one.id, "for": "chosen" if (said.side == 0) == (ahead > 0) else "rejected", "text": said.text}
        for one, told in found
        for said in told.arguments
    ]
    extra |= {"debate": debate} if debate else {}
    return row_of(replace(pair.record, target=(Message("assistant", usable(chosen)),), extra=extra)), better


def _by_principle(every: Sequence[tuple[Principle, Compared]]) -> dict[str, dict[str, int]]:
    """Of each principle how often it was asked, decided, and contradicted itself."""
    told: dict[str, dict[str, int]] = {}
    for principle, one in every:
        own = told.setdefault(principle.id, {"asked": 0, "decided": 0, "split": 0})
        own["asked"] += 1
        own["decided"] += one.outcome in (FIRST, SECOND)
        own["split"] += one.outcome == SPLIT
    return dict(sorted(told.items()))
