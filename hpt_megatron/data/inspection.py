"""What a data file holds and all that is wrong with it, at once.

An error is a row that cannot be used: it does not have the schema, or an image of it is broken. A warning is a row
that will be left out or cut, or that repeats another one. Lengths are in tokens where a checkpoint's folder is given,
else in characters, and then nothing is called too long. The rules of a run make its prompts as the run would.

Example:
    >>> inspect(["train.parquet"]).counts["rows"]  # doctest: +SKIP
    512
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules, open_source
from hpt_megatron.data.prompts import Prompt, PromptRules, make_prompt
from hpt_megatron.data.reading import Problem, read
from hpt_megatron.data.record import Record, Source
from hpt_megatron.errors import UserError
from hpt_megatron.percentile import percentile


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is called too long; None: nothing."""

    prompt: int | None = None
    target: int | None = None


@dataclass
class Inspection:
    """The answer; `records` are the rows that have the schema."""

    files: list[str]
    unit: str
    counts: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)  # by column: rows without a value
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)  # by column: rows of each value
    lengths: dict[str, dict[str, int]] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    numbers: list[str] = field(default_factory=list)  # of extra_info: what data.difficulty may name
    problems: list[Problem] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Rows (or files) that cannot be used, whatever the number of reasons."""
        return len(self.wrong)

    @property
    def wrong(self) -> set[str]:
        """Their places."""
        return {problem.where for problem in self.problems if problem.kind == "error"}

    def as_json(self) -> dict[str, Any]:
        """All of it but the records."""
        told = {name: value for name, value in vars(self).items() if name not in ("records", "problems")}
        return {**told, "errors": self.errors, "problems": [vars(problem) for problem in self.problems]}


def inspect(
    files: Sequence[str],
    folder: str | None = None,
    limits: Limits | None = None,
    image_root: str | None = None,
    rules: PromptRules = PromptRules(longest=1),  # noqa: B008  (frozen)
) -> Inspection:
    """Looks at every row of some files; `rules`: how a run makes prompts of them, but for what is too long."""
    own = limits or Limits()
    found = Inspection(list(files), "tokens" if folder else "characters")
    reading = read(files, image_root)
    found.records, found.problems = reading.records, list(reading.problems)
    found.counts |= {"rows": reading.rows, "usable": 0}
    found.missing = {name: reading.parsed - number for name, number in reading.filled.items()}
    _kinds(found)
    _images(found, reading.places, rules.pixel_limit)
    _lengths(found, reading.places, _measure(folder, rules), own)
    _repeated(found, reading.places)
    wrong = found.wrong
    found.counts["usable"] = sum(place not in wrong for place in reading.places)
    return found


def _kinds(found: Inspection) -> None:
    for name in ("data_source", "ability", "modality"):
        kinds = Counter(str(getattr(record, name)) for record in found.records)
        found.kinds[name] = dict(kinds.most_common())
    numbers = Counter(
        name
        for record in found.records
        for name, value in record.extra.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
    found.numbers = sorted(numbers)
    found.counts["without_target"] = sum(not record.target for record in found.records)
    found.counts["without_gold"] = sum(not record.golds for record in found.records)


def _images(found: Inspection, places: Sequence[str], pixel_limit: int) -> None:
    sizes: list[tuple[int, int]] = []
    broken = 0
    for record, place in zip(found.records, places, strict=True):
        for number, image in enumerate((*record.images, *record.target_images), 1):
            try:
                sizes.append(open_source(image, pixel_limit).size)
            except UserError as error:
                broken += 1
                found.problems.append(Problem(place, f"image {number}: {error}"))
    found.counts |= {"images": len(sizes) + broken, "broken_images": broken}
    if sizes:
        areas = sorted(sizes, key=lambda size: size[0] * size[1])
        found.images = {"smallest": list(areas[0]), "median": list(areas[len(areas) // 2]), "largest": list(areas[-1])}


Measure = Callable[[Record], tuple[int, int]]


def _measure(folder: str | None, own: PromptRules) -> Measure:
    """Lengths of prompt and target of a record."""
    if folder is None:
        return lambda record: (_characters(record.prompt), _characters(record.target or ()))
    chat, rules = Chat.open(folder), PictureRules.of_folder(folder)

    def tokens(record: Record) -> tuple[int, int]:
        prompt: Prompt = make_prompt(record, chat, rules, own)
        return len(prompt.ids), len(prompt.target_ids)

    return tokens


def _characters(messages: Sequence[Any]) -> int:
    return sum(len(message.content) for message in messages)


def _lengths(found: Inspection, places: Sequence[str], measure: Measure, own: Limits) -> None:
    broken = found.wrong
    measured: dict[str, list[int]] = {"prompt": [], "target": []}
    found.counts |= {"prompts_too_long": 0, "targets_too_long": 0}
    for record, place in zip(found.records, places, strict=True):
        if place in broken:
            continue
        try:
            lengths = dict(zip(measured, measure(record), strict=True))
        except UserError as error:
            found.problems.append(Problem(place, str(error)))
            continue
        for name, limit in (("prompt", own.prompt), ("target", own.target)):
            if name == "prompt" or record.target:
                measured[name].append(lengths[name])
            if limit is not None and lengths[name] > limit and found.unit == "tokens":
                found.counts[f"{name}s_too_long"] += 1
                what = f"its {name} has {lengths[name]} tokens, the limit is {limit}"
                found.problems.append(Problem(place, what, "warning"))
    found.lengths = {name: _spread(values) for name, values in measured.items() if values}


def _spread(values: list[int]) -> dict[str, int]:
    ordered = sorted(values)
    shares = (("min", 0), ("median", 50), ("p95", 95), ("max", 100))
    return {name: percentile(ordered, percent) for name, percent in shares}


def _repeated(found: Inspection, places: Sequence[str]) -> None:
    first: dict[str, int] = {}
    repeated = 0
    for number, record in enumerate(found.records):
        key = _content(record)
        if key not in first:
            first[key] = number
            continue
        repeated += 1
        what = f"asks the same as {Path(places[first[key]]).name}"
        if record.golds != found.records[first[key]].golds:
            what += ", and has another gold"
        found.problems.append(Problem(places[number], what, "warning"))
    found.counts["repeated_prompts"] = repeated


def _content(record: Record) -> str:
    told = hashlib.sha256(repr(record.prompt).encode("utf-8", "surrogatepass"))
    for image in record.images:
        told.update(_digest(image))
    return told.hexdigest()


def _digest(image: Source) -> bytes:
    return hashlib.sha256(
        image.data if image.data is not None else str(image.path).encode("utf-8", "surrogatepass")
    ).digest()
