"""An inspection as one HTML page with pictures of a few rows.

Invariants
    1. The page stands alone: no script, nothing is fetched (its own policy forbids both), images are in it.
    2. All text of the data is escaped. Images are drawn again from their pixels, so no byte of a file gets through.
"""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from hpt_megatron.data.inspection import Inspection
from hpt_megatron.data.record import IMAGE, Message, Record, Source
from hpt_megatron.data.thumbnail import thumbnail
from hpt_megatron.errors import UserError
from hpt_megatron.web.page import page as framed
from hpt_megatron.web.page import table

SIDE = 224
LONGEST = 2000  # characters of a text
MOST_PROBLEMS = 1000


def page(found: Inspection, most_rows: int = 12) -> str:
    """The whole page; rows with images come first."""
    rows = sorted(found.records, key=lambda record: not (record.images or record.target_images))[:most_rows]
    title = ", ".join(found.files)
    spread = {name: ", ".join(f"{key} {value}" for key, value in told.items()) for name, told in found.lengths.items()}
    kinds = {
        name: ", ".join(f"{kind or '(none)'} {n}" for kind, n in told.items()) for name, told in found.kinds.items()
    }
    parts = [
        f"<h1>{escape(title)}</h1>",
        _table("Counts", found.counts),
        _table(f"Lengths in {found.unit}", spread),
        _table("Kinds", kinds),
        _table("Rows without a value", {name: number for name, number in found.missing.items() if number}),
        _table("Images", {name: f"{size[0]} x {size[1]}" for name, size in found.images.items()}),
        _problems(found),
        f"<h2>{len(rows)} rows</h2>",
        *map(_row, rows),
    ]
    return framed(title, parts)


def _table(title: str, told: Mapping[str, Any]) -> str:
    if not told:
        return ""
    return f"<h2>{escape(title)}</h2>" + table([[name, str(value)] for name, value in told.items()])


def _problems(found: Inspection) -> str:
    if not found.problems:
        return "<h2>Problems</h2><p>None.</p>"
    shown = found.problems[:MOST_PROBLEMS]
    lines = "".join(
        f'<li class="{problem.kind}">{problem.kind}: {escape(problem.where)}: {escape(problem.what)}</li>'
        for problem in shown
    )
    more = len(found.problems) - len(shown)
    return f"<h2>Problems</h2><ul>{lines}</ul>" + (f"<p>and {more} more</p>" if more else "")


def _row(record: Record) -> str:
    golds = ", ".join(record.golds) or "(none)"
    told = f"<p>gold: {escape(golds[:LONGEST])}</p>"
    return (
        f'<div class="row"><h3>{escape(record.index)}</h3>'
        + _messages(record.prompt, record.images)
        + told
        + ("<p>target:</p>" + _messages(record.target, record.target_images) if record.target else "")
        + "</div>"
    )


def _messages(messages: Iterable[Message], images: Iterable[Source]) -> str:
    left = iter(images)
    parts = []
    for message in messages:
        shown = "".join(_picture(image) for _, image in zip(range(message.num_images), left, strict=False))
        text = escape(message.content[:LONGEST].replace(IMAGE, "[image]"))
        parts.append(f'<div class="text"><span class="role">{escape(message.role)}</span>\n{text}</div>{shown}')
    return "".join(parts)


def _picture(source: Source) -> str:
    try:
        shown = thumbnail(source, SIDE)
    except UserError as error:
        return f'<p class="error">{escape(str(error))}</p>'
    width, height = shown.size
    return f'<img alt="{width} x {height}" title="{width} x {height}" src="{shown.address}">'
