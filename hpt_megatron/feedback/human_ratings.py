"""What people said of a run's responses, against what its reward said of the same ones.

    RUN/human_eval.json   {"sheets": {SHEET: {"kind": ..., "by_source": {...}, "by_step": {...}, "raters": {...}}}}

Of ratings: Pearson and Spearman correlation with the score (with 95 % over items drawn again), and the share of pairs
of responses that people tell apart which the score puts in the same order (of all pairs, and of those of the same
prompt). Of pass and fail: Cohen's kappa with the run's own rule of success. Of pairs: the share of choices that the
score makes too, with Wilson's interval. Several files are several raters: ratings are averaged, passes and choices are
what most say.

Invariants
    1. What nobody filled in is left out and counted. A value that means nothing is refused with its place.
    2. A figure that is not defined is null.

Example: `imported(find(Path("runs/a")), [Path("ratings.csv")])`
"""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from hpt_megatron.data.files import attempts
from hpt_megatron.errors import UserError
from hpt_megatron.feedback.agreement import kappa, ordered_alike, pearson, resampled, spearman, wilson
from hpt_megatron.feedback.human_sheet import KEYS, PAIR
from hpt_megatron.feedback.written import Written
from hpt_megatron.observe.pass_rates import ALL, UNNAMED
from hpt_megatron.report.folder import finite

RESULT = "human_eval.json"
YES, NO = ("yes", "y", "true", "1", "pass"), ("no", "n", "false", "0", "fail")
LARGEST_CELL = 1 << 24
Said = TypeVar("Said", bound=Hashable)


@dataclass(frozen=True)
class Rated:
    """What one person said of an item."""

    rating: float | None = None
    passed: bool | None = None
    choice: str | None = None  # a, b or tie

    @property
    def empty(self) -> bool:
        """Whether nothing was filled in."""
        return self.rating is None and self.passed is None and self.choice is None


@dataclass(frozen=True)
class Item:
    """A line of the key, with what people said of it."""

    item: str
    source: str
    responses: Sequence[Mapping[str, Any]]
    said: list[Rated] = field(default_factory=list)

    @property
    def scores(self) -> list[float]:
        """What the reward said of each response."""
        return [float(one["score"]) for one in self.responses]

    @property
    def rating(self) -> float | None:
        """The mean rating."""
        given = [one.rating for one in self.said if one.rating is not None]
        return fmean(given) if given else None

    @property
    def passed(self) -> bool | None:
        """What most say; None where as many say the contrary."""
        return most([one.passed for one in self.said if one.passed is not None])

    @property
    def choice(self) -> str | None:
        """What most say; None where as many say something else."""
        return most([one.choice for one in self.said if one.choice is not None])


def most(given: Sequence[Said]) -> Said | None:
    """What is said most often; None where two things are."""
    ranked = Counter(given).most_common(2)
    return ranked[0][0] if ranked and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]) else None


def imported(given: Written, files: Sequence[Path], pass_score: float | None = None) -> dict[str, Any]:
    """Reads filled-in sheets; how far they agree with the reward, by sheet, is written into the run's folder."""
    told: dict[str, dict[str, Any]] = {}
    raters: defaultdict[str, dict[str, dict[str, Rated]]] = defaultdict(dict)
    for path in files:
        for sheet, rated in _by_sheet(path).items():
            name = path.stem if path.stem not in raters[sheet] else str(path)
            raters[sheet][name] = rated
    for sheet, own in sorted(raters.items()):
        key = _key(given.folder, sheet)
        items = [Item(str(one["item"]), str(one["data_source"]), one["responses"]) for one in key["items"]]
        known = {item.item for item in items}
        for name, rated in own.items():
            if odd := sorted(set(rated) - known):
                raise UserError(f"its sheet has no item {odd[0]!r}", where=name, mend="the items as they were exported")
        for item in items:
            item.said.extend(rated[item.item] for rated in own.values() if item.item in rated)
        told[sheet] = figures(items, str(key["kind"]), pass_score, bool(key.get("every"))) | {"raters": between(own)}
    _write(given.folder / RESULT, told)
    return told


def figures(items: Sequence[Item], kind: str, pass_score: float | None, every: bool) -> dict[str, Any]:
    """By data source, of all, and by step where so many of each step were drawn."""
    said = [item for item in items if item.said]
    if not said:
        raise UserError("nothing is filled in", where="hpt human-eval import", mend="fill in rating, pass or choice")
    of = _of_pairs if kind == PAIR else lambda own: _of_ratings(own, pass_score)
    sources = _grouped(said, lambda item: item.source or UNNAMED, of)
    steps = _grouped(said, lambda item: f"{item.responses[0]['step']:09}", of) if every else {}
    return {
        "kind": kind,
        "items": len(items),
        "not_rated": len(items) - len(said),
        "by_source": sources if len(sources) < 2 else {**sources, ALL: of(said)},
        "by_step": {str(int(step)): told for step, told in steps.items()},
    }


def _grouped(
    items: Sequence[Item], name: Callable[[Item], str], of: Callable[[Sequence[Item]], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    groups: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[name(item)].append(item)
    return {key: of(groups[key]) for key in sorted(groups)}


def _of_ratings(items: Sequence[Item], pass_score: float | None) -> dict[str, Any]:
    rated = [(item.rating, item.scores[0], item.responses[0]["uid"]) for item in items if item.rating is not None]
    people, reward = [float(one) for one, _, _ in rated if one is not None], [score for _, score, _ in rated]
    pairs = list(zip(people, reward, strict=True))
    accuracy, compared = ordered_alike(people, reward)
    by_prompt: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for pair, (_, _, uid) in zip(pairs, rated, strict=True):
        by_prompt[str(uid)].append(pair)
    same = [ordered_alike([a for a, _ in own], [b for _, b in own]) for own in by_prompt.values()]
    inside = sum(count for _, count in same)
    passes = [(item.passed, _success(item, pass_score)) for item in items if item.passed is not None]
    both = [(one, other) for one, other in passes if other is not None]
    return {
        "rated": len(rated),
        "pearson": _correlation(pairs, pearson),
        "spearman": _correlation(pairs, spearman),
        "pairwise_accuracy": {"value": accuracy, "pairs": compared},
        "pairwise_accuracy_same_prompt": {
            "value": sum((value or 0.0) * count for value, count in same) / inside if inside else None,
            "pairs": inside,
        },
        "pass_kappa": {
            "value": kappa([one for one, _ in both], [other for _, other in both]),
            "agreement": fmean(one == other for one, other in both) if both else None,
            "items": len(both),
        },
    }


def _correlation(pairs: Sequence[tuple[float, float]], statistic: Callable[..., float | None]) -> dict[str, Any]:
    value = statistic([a for a, _ in pairs], [b for _, b in pairs])
    interval = None if value is None else resampled(pairs, statistic)
    return {"value": value, "interval": interval}


def _success(item: Item, pass_score: float | None) -> bool | None:
    told = item.responses[0]["success"]
    if pass_score is not None:
        return item.scores[0] >= pass_score
    return told if isinstance(told, bool) else None


def _of_pairs(items: Sequence[Item]) -> dict[str, Any]:
    chosen = [(item.choice, item.scores) for item in items if item.choice is not None]
    hits = []
    for choice, (a, b) in chosen:
        if choice != "tie":
            ahead = a - b if choice == "a" else b - a
            hits.append(1.0 if ahead > 0 else 0.5 if ahead == 0 else 0.0)
    share = fmean(hits) if hits else None
    return {
        "rated": len(chosen),
        "ties": sum(choice == "tie" for choice, _ in chosen),
        "pairwise_accuracy": {
            "value": share,
            "pairs": len(hits),
            "interval": None if share is None else wilson(share, len(hits)),
        },
        "same_score": sum(a == b for _, (a, b) in chosen),
    }


def between(raters: Mapping[str, Mapping[str, Rated]]) -> dict[str, Any]:
    """How far people agree with one another: means over pairs of them, which no reward can be asked to exceed."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for one, other in combinations(raters.values(), 2):
        both = [(one[item], other[item]) for item in one if item in other]
        ratings = [(a.rating, b.rating) for a, b in both if a.rating is not None and b.rating is not None]
        passes = [(a.passed, b.passed) for a, b in both if a.passed is not None and b.passed is not None]
        choices = [(a.choice, b.choice) for a, b in both if a.choice is not None and b.choice is not None]
        for name, value in (
            ("rating_spearman", spearman([a for a, _ in ratings], [b for _, b in ratings])),
            ("pass_kappa", kappa([a for a, _ in passes], [b for _, b in passes])),
            ("choice_kappa", kappa([a for a, _ in choices], [b for _, b in choices])),
        ):
            if value is not None:
                found[name].append(value)
    return {"files": sorted(raters), **{name: fmean(values) for name, values in sorted(found.items())}}


def _by_sheet(path: Path) -> dict[str, dict[str, Rated]]:
    """What a file says of each item, by sheet; items that are left blank are not there."""
    told: defaultdict[str, dict[str, Rated]] = defaultdict(dict)
    rows = 0
    for where, row in _rows(path):
        rows += 1
        item = str(row.get("item") or "").strip().lstrip("'")
        sheet = item.rpartition("-")[0]
        if not sheet:
            raise UserError("has no item", where=where, mend="the column `item` as it was exported")
        if item in told[sheet]:
            raise UserError(f"the item {item!r} is there twice", where=where)
        told[sheet][item] = _rated(row, where)
    if not rows:
        raise UserError("holds no rating", where=str(path))
    return {sheet: {name: one for name, one in own.items() if not one.empty} for sheet, own in told.items()}


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.suffix != ".csv":
        for where, row in attempts(path):
            if isinstance(row, UserError):
                raise row
            yield where, row
        return
    csv.field_size_limit(LARGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a mark in front
            sample = file.readline()
            file.seek(0)
            separator = max(",;\t", key=sample.count)  # and, in half of the world, semicolons
            for number, row in enumerate(csv.DictReader(file, delimiter=separator), 1):
                yield f"{path} row {number}", row
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path)) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), mend="CSV in UTF-8") from error


def _rated(row: Mapping[str, Any], where: str) -> Rated:
    rating, passed, choice = (str(_blank(row.get(name))).strip().lstrip("'") for name in ("rating", "pass", "choice"))
    number = None
    if rating:
        try:
            number = finite(float(rating.replace(",", ".")))
        except ValueError:
            number = None
        if number is None:
            raise UserError(f"the rating {rating[:40]!r} is no number", where=where)
    word, side = passed.casefold(), choice.casefold()
    if word and word not in YES + NO:
        raise UserError(f"pass is {passed[:40]!r}", where=where, mend="yes or no")
    if side and side not in ("a", "b", "tie"):
        raise UserError(f"the choice is {choice[:40]!r}", where=where, mend="a, b or tie")
    return Rated(number, word in YES if word else None, side or None)


def _blank(value: Any) -> Any:
    return "" if value is None else value


def _key(folder: Path, sheet: str) -> Mapping[str, Any]:
    path = folder / KEYS / f"key_{sheet}.json"
    if not sheet.isalnum() or not path.is_file():
        mend = "the run that it was exported from"
        raise UserError(f"has no key of the sheet {sheet[:40]!r}", where=str(folder), mend=mend)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error
    if not isinstance(told, dict) or not isinstance(told.get("items"), list):
        raise UserError("is no key of a sheet", where=str(path))
    return told


def _write(path: Path, told: Mapping[str, Any]) -> None:
    """Into what earlier sheets came to."""
    before: Any = {}
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8")).get("sheets") or {}
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"cannot be read: {error}", where=str(path), mend="move it away") from error
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.write_text(json.dumps({"sheets": {**before, **told}}, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path)) from error
