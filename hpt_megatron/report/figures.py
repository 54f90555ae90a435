"""The charts of a page, numbered: each keeps its numbers for the script, which shows them to whoever points at it."""

from collections.abc import Sequence
from html import escape
from typing import Any

from hpt_megatron.report.chart import Chart


class Figures:
    """Collects charts while a page is put together."""

    def __init__(self) -> None:
        self.numbers: list[list[Any]] = []

    def add(self, chart: Chart, title: str, note: str = "", legend: str = "") -> str:
        """A chart as HTML."""
        self.numbers.append(chart.numbers)
        said = f' <span class="note">{escape(note)}</span>' if note else ""
        return (
            f"<figure><figcaption><b>{escape(title)}</b>{said}</figcaption>"
            f'<div class="plot" data-chart="{len(self.numbers) - 1}">{chart.svg}</div>{legend}</figure>'
        )


def grid(figures: Sequence[str]) -> str:
    """Figures side by side, as many as there is room for."""
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def legend(entries: Sequence[tuple[str, str, str]]) -> str:
    """Labels behind their colours: (class, style, label)."""
    keys = [
        f'<span><i class="key {kind}"{f" style={chr(34)}{style}{chr(34)}" if style else ""}></i>{escape(label)}</span>'
        for kind, style, label in entries
    ]
    return f'<div class="legend">{"".join(keys)}</div>'


def folded(title: str, inside: str) -> str:
    """Behind a click."""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"
