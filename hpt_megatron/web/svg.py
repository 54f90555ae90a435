"""The shapes that our pictures are made of, as SVG inside a page; sizes are in the picture's own units.

Invariant: every text is escaped, and colours are given as classes or as plain values of ours, never as text from
outside.

Example:
    >>> rect(10, 20, 30, 5, fill="#123456", said="a < b")
    '<rect x="10" y="20" width="30" height="5" fill="#123456"><title>a &lt; b</title></rect>'
"""

from collections.abc import Iterable, Sequence
from html import escape


def number(value: float) -> str:
    """At most two places, and no zeros that say nothing.

    >>> number(3.0), number(0.126), number(-0.001)
    ('3', '0.13', '0')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def rect(x: float, y: float, width: float, height: float, *, fill: str = "", kind: str = "", said: str = "") -> str:
    """A rectangle that says what it is."""
    size = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    look = (f' fill="{fill}"' if fill else "") + (f' class="{kind}"' if kind else "")
    return f"<rect {size}{look}>" + (f"<title>{escape(said)}</title>" if said else "") + "</rect>"


def text(x: float, y: float, said: str, anchor: str = "start", kind: str = "") -> str:
    """A text."""
    look = f' class="{kind}"' if kind else ""
    return f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}"{look}>{escape(said)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "rule", more: str = "") -> str:
    """A straight line."""
    ends = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
    return f'<line {ends} class="{kind}"{more}/>'


def path(points: Iterable[tuple[float, float]], kind: str, close: bool = False) -> str:
    """A line through some points; closed, an area."""
    steps = " ".join(f"{'L' if place else 'M'}{number(x)} {number(y)}" for place, (x, y) in enumerate(points))
    return f'<path class="{kind}" d="{steps}{"Z" if close else ""}"/>'


def drawing(width: float, height: float, name: str, parts: Sequence[str], more: str = "") -> str:
    """A picture; `name` is what it says to who does not see it."""
    size = f'viewBox="0 0 {number(width)} {number(height)}" width="{number(width)}" height="{number(height)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(name)}" {size}{more}>'
        f"{''.join(parts)}</svg>"
    )


def boxes(found: Iterable[tuple[float, float, float, float]], kind: str, more: str = "") -> str:
    """Many rectangles (x, y, width, height) of one look, as one shape."""
    steps = "".join(
        f"M{number(x)} {number(y)}h{number(width)}v{number(height)}h{number(-width)}z" for x, y, width, height in found
    )
    return f'<path class="{kind}"{more} d="{steps}"/>' if steps else ""


def dots(points: Iterable[tuple[float, float]], kind: str, radius: float = 2.2) -> str:
    """Small discs."""
    return "".join(
        f'<circle class="{kind}" cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"/>' for x, y in points
    )
