"""A plan as one HTML file: memory by phase as stacked bars, the step as a timeline, and the layouts as a table.

Pictures are inline SVG, drawn from the plan's numbers; nothing is loaded from elsewhere, and every text that comes from
outside is escaped. Terms have one colour wherever they appear; what is too narrow to be labelled is in the table beside
its picture and in the tooltip.

Invariants
    1. Widths are to scale: the bars of a phase add up to its bytes, the blocks of the timeline to the step's seconds.
    2. The room of the device is a line across all bars; a phase beyond it is marked in words, not by colour alone.

Example:
    >>> block(10, 20, 30, "#123456", "a < b")
    '<rect x="10" y="20" width="30" height="28" fill="#123456" class="block"><title>a &lt; b</title></rect>'
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from hpt_megatron.planning.amounts import in_words
from hpt_megatron.web import svg
from hpt_megatron.web.page import page as framed

WIDE, LEFT, HIGH, STEP = 960, 110, 28, 46
COLOURS = (
    *("#3b6ea5", "#c96a3d", "#5a8f5a", "#8a6bb0", "#b5a03a", "#4f9aa3"),
    *("#b0527a", "#6f6f6f", "#a8743f", "#5566c0", "#6d9436", "#c4585a"),
    *("#2f8f7f", "#9c4f96", "#8c8440", "#37618e", "#d08a2e", "#6b4f3a"),
    *("#4a7d2c", "#a13d3d", "#5b5ba8", "#3f8fc0", "#8f6f9f", "#555f6b"),
)


def page(plan: dict[str, Any]) -> str:
    """The whole file."""
    devices, own = plan["devices"], plan["own"]
    title = f"{plan['asked']}: {devices['count']} x {devices['title']}"
    verdict = "legal, and it fits" if own["fits"] else f"refused: {own['reason']}"
    body = [f"<h1>{escape(title)}</h1>", f"<p>Own layout: {escape(own['text'])}; {escape(verdict)}.</p>"]
    if "planned" in plan:
        planned = plan["planned"]["text"]
        body.append(f"<p>Drawn for {escape(planned)}. Figures: {escape(devices['source'])}.</p>")
        body += [*memory(plan), *(timeline(plan) if "step" in plan else [])]
    body += layouts(plan)
    return framed(title, body)


def colours(names: Iterable[str]) -> dict[str, str]:
    """One for each name, in the order of their first appearance."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(dict.fromkeys(names))}


def block(x: float, y: float, width: float, colour: str, said: str) -> str:
    """A rectangle that says what it is."""
    return svg.rect(x, y, width, HIGH, fill=colour, kind="block", said=said)


def inside(x: float, y: float, width: float, said: str) -> str:
    """A text on a block that is wide enough for it."""
    return svg.text(x + 6, y + 19, said, kind="on") if width >= 6.5 * len(said) + 12 else ""


def drawing(height: int, name: str, parts: Sequence[str]) -> str:
    """An SVG of the page's width."""
    return svg.drawing(WIDE + LEFT + 150, height, name, parts)


def memory(plan: dict[str, Any]) -> list[str]:
    """Stacked bars by phase, with the device's room, and the amounts as a table."""
    phases, room = plan["memory"], plan["devices"]["room_bytes"]
    scale = WIDE / max(room, *(phase["bytes"] for phase in phases))
    colour = colours(term["name"] for phase in phases for term in phase["terms"])
    parts = []
    for row, phase in enumerate(phases):
        at, y = float(LEFT), 8 + row * STEP
        parts.append(svg.text(LEFT - 8, y + 19, phase["phase"], "end"))
        for term in phase["terms"]:
            width = term["bytes"] * scale
            parts.append(block(at, y, width, colour[term["name"]], f"{term['name']}: {in_words(term['bytes'])}"))
            parts.append(inside(at, y, width, term["name"]))
            at += width
        mark = "" if phase["fits"] else ", does not fit"
        parts.append(svg.text(at + 6, y + 19, in_words(phase["bytes"]) + mark))
    bottom = 8 + len(phases) * STEP
    edge = LEFT + room * scale
    parts.append(svg.line(edge, 2, edge, bottom, "limit"))
    parts.append(svg.text(edge, bottom + 14, f"room of the device: {in_words(room)}", "end"))
    heads = "".join(f"<th>{escape(phase['phase'])}</th>" for phase in phases)
    rows = []
    for name in colour:
        found = [next((term["bytes"] for term in phase["terms"] if term["name"] == name), 0) for phase in phases]
        cells = "".join(f'<td class="n">{in_words(each) if each else ""}</td>' for each in found)
        rows.append(f"<tr><td>{key(colour[name])}{escape(name)}</td>{cells}</tr>")
    moments = "; ".join(
        f"{phase['phase']}: {phase['role']}, stage {phase['stage']}, {phase['moment']}" for phase in phases
    )
    return [
        "<h2>Memory of a device, by phase</h2>",
        f'<div class="wide">{drawing(bottom + 24, "memory by phase", parts)}</div>',
        f"<p>At the worst stage and moment. {escape(moments)}.</p>",
        f'<div class="wide"><table><tr><th></th>{heads}</tr>{"".join(rows)}</table></div>',
    ]


def timeline(plan: dict[str, Any]) -> list[str]:
    """The step from left to right, its phases above, and the seconds as a table."""
    step = plan["step"]
    scale = WIDE / step["seconds"]
    colour = colours(f"{part['phase']}: {part['name']}" for part in step["parts"])
    parts, at = [], float(LEFT)
    for part in step["parts"]:
        name, width = f"{part['phase']}: {part['name']}", part["seconds"] * scale
        parts.append(block(at, 30, width, colour[name], f"{name}: {part['seconds']:.3f} s"))
        parts.append(inside(at, 30, width, part["name"]))
        at += width
    at = float(LEFT)
    for phase, seconds in step["phases"].items():
        width = seconds * scale
        if width > 7 * len(phase) + 40:
            parts.append(svg.text(at, 22, f"{phase} {seconds / step['seconds']:.0%}"))
        parts.append(svg.line(at, 26, at, 64))
        at += width
    for tick in range(5):
        anchor = ("start", "middle", "middle", "middle", "end")[tick]
        parts.append(svg.text(LEFT + WIDE * tick / 4, 78, f"{step['seconds'] * tick / 4:,.1f} s", anchor))
    rows = "".join(
        f'<tr><td>{key(colour[name])}{escape(name)}</td><td class="n">{part["seconds"]:.3f} s</td>'
        f'<td class="n">{part["seconds"] / step["seconds"]:.1%}</td></tr>'
        for part, name in ((part, f"{part['phase']}: {part['name']}") for part in step["parts"])
    )
    said = (
        f"{step['seconds']:,.1f} s, {step['tokens_per_s']:,.0f} tokens/s, "
        f"{step['tokens_per_s_per_device']:,.0f} on each device"
    )
    return [
        "<h2>One step</h2>",
        f"<p>{escape(said)}</p>",
        f'<div class="wide">{drawing(86, "one step as a timeline", parts)}</div>',
        f"<table>{rows}</table>",
    ]


def layouts(plan: dict[str, Any]) -> list[str]:
    """The best twenty."""
    ranked, refused = plan["layouts"]["ranked"], plan["layouts"]["refused"]
    rows = "".join(
        f'<tr><td class="n">{one["tokens_per_s"]:,.0f}</td><td>{escape(one["text"])}</td>'
        f'<td>{escape(one["phase"])}</td><td class="n">{in_words(one["bytes"])}</td></tr>'
        for one in ranked[:20]
    )
    heads = "".join(f"<th>{head}</th>" for head in ("tokens/s", "layout", "fullest phase", ""))
    return [
        "<h2>Layouts</h2>",
        f"<p>{len(ranked):,} fit, {len(refused):,} are refused; the best by predicted tokens per second:</p>",
        f'<div class="wide"><table><tr>{heads}</tr>{rows}</table></div>',
    ]


def key(colour: str) -> str:
    """The square of a legend."""
    return f'<span class="key" style="background:{colour}"></span>'
