"""Which rollouts of a run a page can show: a bounded choice, and what of each.

A run may have millions. Kept are: all, where they are few; else

    steps      of some steps, evenly spread, with the first and the newest one: the best and the worst rollout of three
               prompts (the best, the worst, and the one whose rollouts differ most)
    followed   of some prompts whose success changed most: the best and the worst rollout at every visit
    validation the three best and the three worst of the newest validation
    others     as long as there is room: the best and the worst rollout of further prompts of those steps

Invariants
    1. At most `READ_MOST` bytes of files are read and `KEPT_MOST` rollouts are kept; what is left out is counted.
    2. The choice is the same every time, and only looks at numbers; texts are read of what was chosen.
    3. A long text loses its middle, and says how much of it.
    4. A rollout that was sampled again, after a run went on, is the later one; a file that goes away meanwhile is none.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.protocol.conditions import OPERATORS, Condition
from hpt_megatron.report.decisions import histories
from hpt_megatron.report.folder import Recorded, Visit, finite

READ_MOST = 192 * 2**20
KEPT_MOST = 240
STEPS, FOLLOWED, VISITS, ENDS = 16, 14, 6, 3
LONGEST = 3000  # characters of a turn
MOST_TURNS, MOST_SPANS, MOST_PAGES = 24, 64, 8


@dataclass(frozen=True)
class Entry:
    """Where a rollout stands, and the numbers that it is chosen by."""

    path: Path
    offset: int
    purpose: str
    step: int
    uid: str
    sample: int
    total: float


@dataclass(frozen=True)
class Kept:
    """The rollouts of a run that are shown, ready for JSON; `seen` of them were looked at, in `files` of `of` files.
    `odd` were chosen, and turned out to be no lines of ours.
    """

    rollouts: list[dict[str, Any]]
    seen: int
    files: int
    of: int
    odd: int = 0


def keep(run: Recorded, most: int = KEPT_MOST) -> Kept:
    """See the module."""
    paths = _files(run)
    found = (entry for key in paths for entry in _entries(run.files[key], key[0], key[1]))
    entries = list({(one.purpose, one.step, one.uid, one.sample): one for one in found}.values())
    chosen = chosen_of(entries, run.visits, most)
    rule, decided = rule_of(run), {(visit.step, visit.uid): visit for visit in run.visits}
    shown = []
    for entry in chosen:
        told = _at(entry)
        with suppress(TypeError, ValueError, AttributeError, OverflowError):  # a line that others wrote
            if told is not None:
                shown.append(_shown(told, entry, rule, decided.get((entry.step, entry.uid))))
    return Kept(shown, len(entries), len(paths), len(run.files), len(chosen) - len(shown))


def chosen_of(entries: Sequence[Entry], visits: Sequence[Visit], most: int = KEPT_MOST) -> list[Entry]:
    """In the order of steps, prompts and samples."""
    if len(entries) <= most:
        return sorted(entries, key=_order)
    train = [entry for entry in entries if entry.purpose == "train"]
    found = dict.fromkeys(_of_steps(train))
    found |= dict.fromkeys(_of_prompts(train, visits))
    tested = [entry for entry in entries if entry.purpose != "train"]
    newest = sorted((e for e in tested if e.step == max(t.step for t in tested)), key=lambda e: (-e.total, *_order(e)))
    found = dict.fromkeys([*newest[:ENDS], *newest[-ENDS:]]) | found | dict.fromkeys(_others(train))
    return sorted(list(found)[:most], key=_order)


def _of_steps(entries: Sequence[Entry]) -> Iterator[Entry]:
    by_step = _by_step(entries)
    for step in reversed(spread(sorted(by_step), STEPS)):
        groups = sorted(by_step[step].values(), key=lambda own: (-_mean(own), own[0].uid))
        differ = max(groups, key=lambda own: _best(own).total - _worst(own).total)
        for own in (groups[0], groups[-1], differ):
            yield from (_best(own), _worst(own))


def _by_step(entries: Sequence[Entry]) -> dict[int, dict[str, list[Entry]]]:
    """The rollouts of each prompt of each step."""
    found: defaultdict[int, defaultdict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        found[entry.step][entry.uid].append(entry)
    return {step: dict(own) for step, own in found.items()}


def _others(entries: Sequence[Entry]) -> Iterator[Entry]:
    by_step = _by_step(entries)
    steps = list(reversed(spread(sorted(by_step), STEPS)))
    for rank in range(max((len(by_step[step]) for step in steps), default=0)):
        for step in steps:
            for uid in sorted(by_step[step])[rank : rank + 1]:
                yield from (_best(by_step[step][uid]), _worst(by_step[step][uid]))


def _of_prompts(entries: Sequence[Entry], visits: Sequence[Visit]) -> Iterator[Entry]:
    groups: defaultdict[str, defaultdict[int, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        groups[entry.uid][entry.step].append(entry)
    changed = {uid: _change(seen) for uid, seen in histories(visits).items() if uid in groups}
    for uid in sorted(changed, key=lambda uid: (-abs(changed[uid]), uid))[:FOLLOWED]:
        for step in spread(sorted(groups[uid]), VISITS):
            yield from (_best(groups[uid][step]), _worst(groups[uid][step]))


def _change(seen: Sequence[Visit]) -> float:
    rates = [visit.k / visit.n for visit in seen if visit.n]
    return rates[-1] - rates[0] if rates else 0.0


def _best(own: Sequence[Entry]) -> Entry:
    return max(own, key=lambda entry: (entry.total, -entry.sample))


def _worst(own: Sequence[Entry]) -> Entry:
    return min(own, key=lambda entry: (entry.total, entry.sample))


def _mean(own: Sequence[Entry]) -> float:
    return sum(entry.total for entry in own) / len(own)


def _order(entry: Entry) -> tuple[int, bool, str, int]:
    return entry.step, entry.purpose == "train", entry.uid, entry.sample


def spread(every: Sequence[int], most: int) -> list[int]:
    """Some of them, evenly, with both ends.

    >>> spread(range(1, 101), 4), spread([3, 5], 4)
    ([1, 34, 67, 100], [3, 5])
    """
    if len(every) <= most:
        return list(every)
    return [every[round(place * (len(every) - 1) / (most - 1))] for place in range(most)]


def _files(run: Recorded) -> list[tuple[str, int]]:
    """The files that are looked at: those of all steps, or as many as may be read."""
    keys = sorted(run.files, key=lambda key: (key[0], key[1]))
    sizes = {key: run.files[key].stat().st_size if run.files[key].is_file() else 0 for key in keys}
    if sum(sizes.values()) <= READ_MOST:
        return keys
    newest = [key for key in keys if key[0] != "train"][-1:]
    steps = [key[1] for key in keys if key[0] == "train"]
    for count in range(min(len(steps), 4 * STEPS), 1, -1):
        chosen = [("train", step) for step in spread(steps, count)] + newest
        if sum(sizes[key] for key in chosen) <= READ_MOST:
            return chosen
    return [("train", steps[-1])] if steps else newest


def _entries(path: Path, purpose: str, step: int) -> Iterator[Entry]:
    offset = 0
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            start, offset = offset, offset + len(line)
            if offset > READ_MOST:
                return
            try:
                told = json.loads(line)
                total = finite(told["total"])
                yield Entry(path, start, purpose, step, str(told["uid"]), int(told["sample"]), total or 0.0)
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                continue  # torn by the end of its writer, or no line of ours


def _at(entry: Entry) -> dict[str, Any] | None:
    with suppress(FileNotFoundError, ValueError), entry.path.open("rb") as file:
        file.seek(entry.offset)
        told = json.loads(file.readline())
        return told if isinstance(told, dict) else None
    return None


def rule_of(run: Recorded) -> list[Condition]:
    """What the run calls a success."""
    found = []
    for told in _listed(run.value("algorithm.success")):
        if isinstance(told, Mapping) and told.get("op") in OPERATORS and finite(told.get("value")) is not None:
            found.append(Condition(str(told.get("component")), str(told["op"]), float(told["value"])))
    return found


def succeeded(components: Mapping[str, Any], rule: Sequence[Condition]) -> bool | None:
    """Whether all conditions hold; None where the run names none, or one of an unknown component."""
    scores = [finite(components.get(condition.component)) for condition in rule]
    if not rule or None in scores:
        return None
    return all(condition.met_by(score) for condition, score in zip(rule, scores, strict=True))


def _shown(told: Mapping[str, Any], entry: Entry, rule: Sequence[Condition], visit: Visit | None) -> dict[str, Any]:
    """What the page gets; short names, for there are many."""
    components = told.get("components") or {}
    turns = [_turn(turn) for turn in _listed(told.get("turns"))[:MOST_TURNS]]
    return {
        "step": entry.step,
        "uid": entry.uid,
        "sample": entry.sample,
        "purpose": entry.purpose,
        "total": finite(told.get("total")),
        "ok": succeeded(components, rule),
        "valid": told.get("valid") is not False,
        "components": {str(name): finite(score) for name, score in components.items()},
        "finish": str(told.get("finish") or ""),
        "answer": cut(str(told["answer"])) if told.get("answer") else None,
        "turns": turns,
        "images": [_image(image) for image in _listed(told.get("images"))[: 4 * MOST_PAGES]],
        "spans": [[str(kind), int(count)] for kind, count in _listed(told.get("spans"))[:MOST_SPANS]],
        "versions": [str(version) for version in _listed(told.get("versions"))],
        "route": None if visit is None else _route(visit),
    }


def _route(visit: Visit) -> list[Any]:
    return [visit.arm, visit.on, visit.removed, visit.n, visit.k, visit.demonstration]


def _turn(turn: Any) -> dict[str, Any]:
    told = turn if isinstance(turn, Mapping) else {}
    return {
        "text": cut(str(told.get("text") or "")),
        "action": str(told.get("action") or ""),
        "body": cut(str(told.get("body") or "")),
        "outcome": str(told.get("outcome") or ""),
        "pages": [str(page) for page in _listed(told.get("pages"))[:MOST_PAGES]],
        "tokens": finite(told.get("num_tokens")) or 0,
    }


def _image(image: Any) -> list[Any]:
    told = image if isinstance(image, Mapping) else {}
    return [str(told.get("page") or ""), [finite(edge) for edge in _listed(told.get("region"))]]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def cut(text: str, longest: int = LONGEST) -> str:
    """A text without its middle, where it is too long.

    >>> cut("abcdefgh", 4)
    'ab\\n[... 4 characters left out ...]\\ngh'
    """
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"
