"""A supervised set of what a run got right: its prompts, each with its own best answers as targets.

Kept is a response that is a success by the run's own rule (and scores at least `least`, where that is given), is
whole, was ended by the policy, and is one turn of text. Of each prompt at most `per_prompt` different ones, the first
by

    highest    its reward, then the fewest tokens, then the earliest step
    shortest   the fewest tokens, then its reward, then the earliest step

Images travel inside the file. A row keeps index, golds and reference of its prompt, so it can be trained on by HPT as
well as by `hpt sft`; `extra_info.distilled` says where the answer is from.

Example: `distilled(find(Path("runs/a")), "train", Kept(per_prompt=2)).rows`
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hpt_megatron.data.files import Row
from hpt_megatron.data.record import IMAGE, Message, Record, Source
from hpt_megatron.data.rows import row_of
from hpt_megatron.errors import UserError
from hpt_megatron.feedback.cases import usable
from hpt_megatron.feedback.written import Response, Written, none_known, responses, steps_of

CUT = "length"
REASONS = ("not_scored", "failed", "below_min_score", "cut", "with_prefix", "several_turns", "unusable")
Order = Literal["highest", "shortest"]


@dataclass(frozen=True)
class Kept:
    """Which responses are kept."""

    per_prompt: int = 1
    least: float | None = None
    steps: range | None = None
    first: Order = "highest"


@dataclass(frozen=True)
class Distilled:
    """The rows, and what became of everything else."""

    rows: list[Row]
    counts: dict[str, int]


def distilled(given: Written, purpose: str, records: Mapping[str, Record], how: Kept) -> Distilled:
    """See the module."""
    if not given.success and how.least is None:
        what = "does not say what a success is"
        raise UserError(what, where=str(given.folder), mend="give --min-score X")
    counts: Counter[str] = Counter(dict.fromkeys(("responses", *REASONS, "repeated", "more_than_asked"), 0))
    held: defaultdict[str, dict[str, Response]] = defaultdict(dict)
    for one in responses(given, purpose, steps_of(given, purpose, how.steps)):
        counts["responses"] += 1
        why = _why_not(given, one, how)
        if why:
            counts[why] += 1
            continue
        before = held[one.uid].get(usable(one.text))
        counts["repeated"] += before is not None
        if before is None or _order(one, how) < _order(before, how):
            held[one.uid][usable(one.text)] = one
    known = {uid: own for uid, own in held.items() if uid in records}
    if held and not known:
        raise none_known(given, list(held))
    rows: list[Row] = []
    for uid in (uid for uid in records if uid in known):  # in the order of the data
        best = sorted(known[uid].values(), key=lambda one: _order(one, how))
        counts["more_than_asked"] += max(len(best) - how.per_prompt, 0)
        made = [_row(records[uid], one, number) for number, one in enumerate(best[: how.per_prompt])]
        rows += made
    found = {"unknown_prompt": len(held) - len(known), "prompts": len(known), "rows": len(rows)}
    return Distilled(rows, {**counts, **found})


def _why_not(given: Written, one: Response, how: Kept) -> str:
    """What keeps a response from being a demonstration; empty where nothing does."""
    if not one.valid or one.paid is None:
        return "not_scored"
    if given.success and not given.succeeded(one):
        return "failed"
    if how.least is not None and one.paid < how.least:
        return "below_min_score"
    if one.finish == CUT:
        return "cut"
    if not one.whole:
        return "with_prefix"
    if one.turns != 1:
        return "several_turns"
    return "unusable" if IMAGE in one.text or not one.text.strip() else ""


def _order(one: Response, how: Kept) -> tuple[Any, ...]:
    score = -(one.paid or 0.0)
    both = (score, one.tokens) if how.first == "highest" else (one.tokens, score)
    return (*both, one.step, one.sample)


def _row(record: Record, one: Response, number: int) -> Row:
    told = {"step": one.step, "sample": one.sample, "score": one.paid, "tokens": one.tokens}
    return row_of(
        replace(
            record,
            index=record.index if not number else f"{record.index}/{number + 1}",
            target=(Message("assistant", usable(one.text)),),
            target_images=(),
            images=tuple(Source(data=image.read()) for image in record.images),
            extra={**record.extra, "distilled": told},
        )
    )
