"""The page on which people rate: one file, nothing fetched, nothing sent; what it makes is saved by hand.

Example: `form("1a2b3c4d", False, rows, pictures)`
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from hpt_megatron.feedback.asking import data_url
from hpt_megatron.web.page import page

SCRIPT = Path(__file__).with_name("form.js")
RATINGS = ("1", "2", "3", "4", "5")
STYLE = """
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
label { margin-right: 1rem; } fieldset { border: 0; padding: .2rem 0; margin: 0; } legend { color: var(--soft); }
textarea { width: 100%; font: 12px monospace; }
"""


def form(sheet: str, pairs: bool, rows: Sequence[Mapping[str, str]], pictures: Sequence[Sequence[bytes]]) -> str:
    """The whole file."""
    told = (
        "Which answer is better?" if pairs else "How good is each answer, from 1 (bad) to 5 (good), and does it pass?"
    )
    body = [
        "<h1>Ratings</h1>",
        f"<p>{told} Leave out what you cannot judge. When you are done, save the file and hand it back.</p>",
        *(_item(row, images, pairs) for row, images in zip(rows, pictures, strict=True)),
        '<h2>Result</h2><p><span id="done">0</span> of '
        f'{len(rows)} <a id="save" download="ratings_{escape(sheet)}.jsonl" href="#">save the file</a></p>',
        '<textarea id="result" rows="8" readonly aria-label="the file, to copy"></textarea>',
    ]
    data = {"sheet": sheet, "items": [row["item"] for row in rows]}
    return page(f"Ratings {sheet}", body, style=STYLE, script=SCRIPT.read_text(encoding="utf-8"), data=data)


def _item(row: Mapping[str, str], images: Sequence[bytes], pairs: bool) -> str:
    item = row["item"]
    shown = "".join(f'<img src="{data_url(data)}" alt="image {place}">' for place, data in enumerate(images, 1))
    if pairs:
        answers = "".join(
            f'<div><h3>{side}</h3><div class="text">{escape(row[name])}</div></div>'
            for side, name in (("A", "response_a"), ("B", "response_b"))
        )
        asked = _asked(item, "choice", "better", {"a": "A", "b": "B", "tie": "neither"})
    else:
        answers = f'<div class="text">{escape(row["response"])}</div>'
        asked = _asked(item, "rating", "rating", {one: one for one in RATINGS})
        asked += _asked(item, "pass", "passes", {"yes": "yes", "no": "no"})
    note = f'<label>note <input type="text" data-item="{escape(item)}" data-field="note"></label>'
    return (
        f'<div class="row"><h2>{escape(item)}</h2>{shown}<div class="text">{escape(row["prompt"])}</div>'
        f'<h3>Answer</h3><div class="answers">{answers}</div>{asked}{note}</div>'
    )


def _asked(item: str, field: str, legend: str, values: Mapping[str, str]) -> str:
    inputs = "".join(
        f'<label><input type="radio" name="{escape(item)}/{field}" data-item="{escape(item)}" data-field="{field}"'
        f' value="{escape(value)}"> {escape(shown)}</label>'
        for value, shown in values.items()
    )
    return f"<fieldset><legend>{legend}</legend>{inputs}</fieldset>"
