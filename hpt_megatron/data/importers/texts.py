"""Pieces of text that several importers cut and read.

Example:
    >>> boxed(r"so \\boxed{\\frac{1}{2}}"), listed("['Chart', 'Table']"), marked("what?", 2)
    ('\\\\frac{1}{2}', ['Chart', 'Table'], '<image><image>what?')
"""

import json
import re
from typing import Any

from hpt_megatron.data.record import IMAGE

TURN = re.compile(r"\n\n(Human|Assistant):")


def boxed(text: str) -> str:
    r"""What stands in the last `\boxed{...}`, braces balanced; the text itself where there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return text.strip()
    begin = start + len("\\boxed{")
    depth = 1
    for place in range(begin, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            return text[begin:place].strip()
    return text.strip()


def marked(text: str, images: int) -> str:
    """The text with a mark for every image: those that lack are put in front."""
    return IMAGE * max(0, images - text.count(IMAGE)) + text


def listed(text: Any) -> list[Any]:
    """A list, also from the text of one as Python or JSON writes it; nothing is evaluated."""
    if not isinstance(text, str):
        return list(text or [])
    body = text.strip().removeprefix("[").removesuffix("]")
    try:
        return list(json.loads(f"[{body}]"))
    except ValueError:
        quoted = re.findall(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", body)
        return [one or other for one, other in quoted] or [part.strip() for part in body.split(",") if part.strip()]


def transcript(text: str) -> list[dict[str, str]]:
    """A conversation of the form `\n\nHuman: ... \n\nAssistant: ...`."""
    _, *rest = TURN.split(text)
    names = {"Human": "user", "Assistant": "assistant"}
    return [{"role": names[name], "content": said.strip()} for name, said in zip(rest[::2], rest[1::2], strict=True)]
