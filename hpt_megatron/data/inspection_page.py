"""An inspection as one HTML page with pictures of a few rows.

Invariants
    1. The page stands alone: no script, nothing is fetched (its own policy forbids both), images are in it.
    2. All text of the data is escaped. Images are drawn again from their pixels, so no byte of a file gets through.
"""

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from hpt_megatron.data.inspection import Inspection
from hpt_megatron.data.pictures import open_source
from hpt_megatron.data.record import IMAGE, Message, Record, Source
from hpt_megatron.errors import UserError

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SIDE = 224
LONGEST = 2000  # characters of a text
MOST_PROBLEMS = 1000
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 0 0 1.5rem; }
td, th { border: 1px solid #ccc; padding: .2rem .6rem; text-align: left; vertical-align: top; }
.row { border-top: 2px solid #ccc; padding: 1rem 0; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .5rem; margin: .3rem 0; }
img { margin: .3rem; border: 1px solid #ccc; }
.error { color: #a00; } .warning { color: #850; } .role { color: #666; font-size: .85em; }
"""


def page(found: Inspection, most_rows: int = 12) -> str:
    """The whole page; rows with images come first."""
    rows = sorted(found.records, key=lambda record: not (record.images or record.target_images))[:most_rows]
    title = escape(", ".join(found.files))
    spread = {name: ", ".join(f"{key} {value}" for key, value in told.items()) for name, told in found.lengths.items()}
    kinds = {
        name: ", ".join(f"{kind or '(none)'} {n}" for kind, n in told.items()) for name, told in found.kinds.items()
    }
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>",
        _table("Counts", found.counts),
        _table(f"Lengths in {found.unit}", spread),
        _table("Kinds", kinds),
        _table("Rows without a value", {name: number for name, number in found.missing.items() if number}),
        _table("Images", {name: f"{size[0]} x {size[1]}" for name, size in found.images.items()}),
        _problems(found),
        f"<h2>{len(rows)} rows</h2>",
        *map(_row, rows),
        "</body></html>",
    ]
    return "\n".join(parts)


def _table(title: str, told: Mapping[str, Any]) -> str:
    if not told:
        return ""
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in told.items())
    return f"<h2>{escape(title)}</h2><table>{cells}</table>"


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
        image = open_source(source)
    except UserError as error:
        return f'<p class="error">{escape(str(error))}</p>'
    width, height = image.size
    image.thumbnail((SIDE, SIDE))
    held = io.BytesIO()
    image.save(held, "PNG")
    data = base64.b64encode(held.getvalue()).decode()
    return f'<img alt="{width} x {height}" title="{width} x {height}" src="data:image/png;base64,{data}">'
