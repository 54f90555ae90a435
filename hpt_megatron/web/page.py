"""The frame of every page that we write: one file, one look, nothing fetched.

    page(title, body)                       a document
    page(title, body, script=..., data=...) one with a script of ours, which reads `data` and nothing else

Invariants
    1. A page stands alone. Its own policy forbids everything but images in it, its style, and the one script that it
       was written with, which the browser knows by its digest: a script that a text brings along does not run,
       whatever is wrong with the escaping.
    2. Data stands in the page as JSON in which no `<` is left, so no text of it can end the element that it is in.

Example:
    >>> "script-src" in page("a < b", ["<p>c</p>"]), "<title>a &lt; b</title>" in page("a < b", [])
    (False, True)
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = Path(__file__).with_name("style.css")


def page(title: str, body: Iterable[str], *, style: str = "", script: str = "", data: Any = None) -> str:
    """The whole file; `body` is HTML, `style` comes behind the one of every page."""
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
    policy = POLICY + (f"; script-src 'sha256-{digest}'" if script else "")
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{STYLE.read_text(encoding='utf-8')}{style}</style>\n</head>\n<body>",
        *body,
    ]
    if data is not None:
        parts.append(f'<script type="application/json" id="data">{harmless(data)}</script>')
    if script:
        parts.append(f"<script>\n{script}\n</script>")
    return "\n".join([*parts, "</body>\n</html>\n"])


def harmless(data: Any) -> str:
    """JSON that can stand in an element of HTML.

    >>> harmless({"text": "</script>&"})
    '{"text":"\\\\u003c/script\\\\u003e\\\\u0026"}'
    """
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def table(rows: Iterable[Sequence[str]], heads: Sequence[str] = (), numbers: Sequence[int] = ()) -> str:
    """A table of texts; the columns of `numbers` stand to the right. A wide one moves under the finger, not the page.

    >>> table([["a<b", "1"]], numbers=[1])
    '<div class="wide"><table><tr><td>a&lt;b</td><td class="n">1</td></tr></table></div>'
    """

    def cell(tag: str, place: int, text: str) -> str:
        return f"<{tag}{' class=' + chr(34) + 'n' + chr(34) if place in numbers else ''}>{escape(text)}</{tag}>"

    head = "".join(cell("th", place, text) for place, text in enumerate(heads))
    lines = ["".join(cell("td", place, text) for place, text in enumerate(row)) for row in rows]
    inside = "".join(f"<tr>{line}</tr>" for line in ([head] if head else []) + lines)
    return f'<div class="wide"><table>{inside}</table></div>'
