"""Responses for people to rate, without what the reward says of them: drawn by a seed, in an order by chance.

    OUT/ratings.csv, ratings.jsonl   the same items; fill in either
    OUT/form.html                    or rate here, and save what it makes; one file that fetches nothing
    OUT/images/                      the prompts' images
    RUN/human_eval/key_SHEET.json    which response each item is, with its score; not for who rates

Invariants
    1. Nothing in OUT says from which step, sample or prompt an item is, or how it scored; which side of a pair an
    answer is
       on is drawn.
    2. A cell of the CSV that a spreadsheet would take for a formula begins with an apostrophe.
    3. OUT is there whole or not at all, and the key before it.

Example: `export(find(Path("runs/a")), "validate", records, Draw(count=50), Path("sheet"))`
"""

import csv
import hashlib
import io
import json
import os
import random
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.data.record import IMAGE, Record
from hpt_megatron.errors import UserError
from hpt_megatron.feedback.human_form import form
from hpt_megatron.feedback.written import Response, Written, none_known, responses, steps_of

Key = tuple[str, int, str, int]
KEYS = "human_eval"
SINGLE, PAIR = "rating", "pair"
COLUMNS = {
    SINGLE: ("item", "prompt", "images", "response", "rating", "pass", "note"),
    PAIR: ("item", "prompt", "images", "response_a", "response_b", "choice", "note"),
}
FILL = ("rating", "pass", "choice", "note")
FORMULA = ("=", "+", "-", "@")


@dataclass(frozen=True)
class Draw:
    """What is drawn; with `every`, so many of each of those steps, else of all together."""

    count: int = 50
    pairs: bool = False
    seed: int = 0
    steps: range | None = None
    every: int | None = None


@dataclass(frozen=True)
class Sheet:
    """What was written."""

    name: str
    items: int
    key: Path
    folder: Path


def export(given: Written, purpose: str, records: Mapping[str, Record], how: Draw, out: Path) -> Sheet:
    """Draws, and writes the sheet and its key."""
    if out.exists():
        raise UserError("is there already", where=str(out), mend="another OUT")
    chosen = drawn(given, purpose, records, how)
    kind = PAIR if how.pairs else SINGLE
    digest = hashlib.sha256(json.dumps([kind, how.seed, str(given.folder.resolve()), chosen]).encode())
    name = f"s{digest.hexdigest()[:7]}"  # begins with a letter: no spreadsheet takes it for a number or a date
    wanted = {key for item in chosen for key in item}
    found = {one.key: one for one in responses(given, purpose, sorted({key[1] for key in wanted})) if one.key in wanted}
    items = [tuple(found[key] for key in item) for item in chosen]
    key = given.folder / KEYS / f"key_{name}.json"
    text = json.dumps(
        {
            "sheet": name,
            "kind": kind,
            "seed": how.seed,
            "every": how.every,
            "items": _keys(given, name, items, records),
        },
        indent=1,
    )
    try:
        key.parent.mkdir(parents=True, exist_ok=True)
        beside = key.with_name(f"{key.name}.new")
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(key)
        _write(out, name, kind, items, records)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=str(error.filename or out)) from error
    return Sheet(name, len(items), key, out)


def drawn(given: Written, purpose: str, records: Mapping[str, Record], how: Draw) -> list[tuple[Key, ...]]:
    """The keys of each item, in the order in which they are shown."""
    by_step: defaultdict[int, dict[tuple[int, str], dict[str, Key]]] = defaultdict(dict)
    lost: list[str] = []
    steps = steps_of(given, purpose, how.steps, how.every or 1)
    for one in responses(given, purpose, steps):
        if not (one.valid and one.whole and one.paid is not None and one.text.strip()):
            continue
        if one.uid not in records:
            lost.append(one.uid)
            continue
        texts = by_step[one.step].setdefault((one.step, one.uid), {})
        texts.setdefault(one.text, one.key)  # of equal texts the first one
    if lost and not by_step:
        raise none_known(given, lost)
    chance = random.Random(f"{how.seed}/human_eval")
    pools = (
        list(by_step.values()) if how.every else [{key: own for pool in by_step.values() for key, own in pool.items()}]
    )
    found: list[tuple[Key, ...]] = []
    for pool in pools:
        found += _of_pool(list(pool.values()), how, chance)
    if not found:
        what = "no prompt has two different responses" if how.pairs else "no response can be rated"
        raise UserError(
            f"{what} ({purpose}, {len(steps)} steps)", where=str(given.folder), mend="other --steps, --purpose"
        )
    chance.shuffle(found)
    return found


def _of_pool(groups: Sequence[dict[str, Key]], how: Draw, chance: random.Random) -> list[tuple[Key, ...]]:
    if not how.pairs:
        single = [(key,) for group in groups for key in group.values()]
        return chance.sample(single, min(how.count, len(single)))
    several = [list(group.values()) for group in groups if len(group) > 1]
    return [tuple(chance.sample(keys, 2)) for keys in chance.sample(several, min(how.count, len(several)))]


def _keys(
    given: Written, name: str, items: Sequence[tuple[Response, ...]], records: Mapping[str, Record]
) -> list[dict[str, Any]]:
    return [
        {
            "item": f"{name}-{number}",
            "data_source": records[item[0].uid].data_source,
            "responses": [
                {
                    "purpose": one.purpose,
                    "step": one.step,
                    "uid": one.uid,
                    "sample": one.sample,
                    "score": one.paid,
                    "success": given.succeeded(one),
                }
                for one in item
            ],
        }
        for number, item in enumerate(items, 1)
    ]


def _write(
    out: Path, name: str, kind: str, items: Sequence[tuple[Response, ...]], records: Mapping[str, Record]
) -> None:
    beside = out.with_name(f".{out.name}.{os.getpid()}.partial")
    beside.mkdir(parents=True)
    try:
        rows, pictures = [], []
        for number, item in enumerate(items, 1):
            record = records[item[0].uid]
            images = [image.read() for image in record.images]
            files = [_picture(beside, f"{number}_{place}", data) for place, data in enumerate(images, 1)]
            rows.append(_row(f"{name}-{number}", kind, record, files, [one.text for one in item]))
            pictures.append(images)
        (beside / "ratings.csv").write_text(table(rows, COLUMNS[kind]), encoding="utf-8", errors="replace", newline="")
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (beside / "ratings.jsonl").write_text(lines, encoding="utf-8")
        page = form(name, kind == PAIR, rows, pictures)
        (beside / "form.html").write_text(page, encoding="utf-8", errors="replace")
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _row(item: str, kind: str, record: Record, files: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    said = [message.content.replace(IMAGE, "[image] ") for message in record.prompt]
    many = len(record.prompt) > 1
    prompt = "\n".join(f"{one.role}: {text}" if many else text for one, text in zip(record.prompt, said, strict=True))
    names = ("response",) if kind == SINGLE else ("response_a", "response_b")
    row = {"item": item, "prompt": prompt, "images": " ".join(files), **dict(zip(names, texts, strict=True))}
    return row | dict.fromkeys((name for name in COLUMNS[kind] if name in FILL), "")


def _picture(folder: Path, name: str, data: bytes) -> str:
    kind = "jpg" if data.startswith(b"\xff\xd8") else "webp" if data.startswith(b"RIFF") else "png"
    path = folder / "images" / f"{name}.{kind}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return f"images/{path.name}"


def table(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    """CSV that a spreadsheet shows and does not compute."""
    told = io.StringIO()
    writer = csv.writer(told)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([guarded(row.get(name, "")) for name in columns])
    return told.getvalue()


def guarded(cell: str) -> str:
    """A cell as text.

    >>> guarded("=1+1"), guarded(" @A1"), guarded("a=b")
    ("'=1+1", "' @A1", 'a=b')
    """
    risky = cell.lstrip().startswith(FORMULA) or cell.startswith(("\t", "\r", "\n"))
    return f"'{cell}" if risky else cell
