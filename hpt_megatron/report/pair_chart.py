"""Two pictures of how a model tells answers apart: where scores lie, and whether it is as often right as it is sure.

    distribution   both sides over one another, on the same columns
    reliability    a disc for each bin of confidence, as high as the share that is right, as large as its pairs; on the
                   diagonal a model is right as often as it says

Invariants
    1. Discs are to scale by their area, and none is too small to be seen.
    2. As in `chart.py`: axes are to scale, colours are classes, and nothing is known of what made the numbers.

Example: reliability(judged.bins, "ECE 0.02").svg
"""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

from hpt_megatron.protocol.bin import Bin
from hpt_megatron.report.chart import HIGH, LEFT, RIGHT, WIDE, Chart, Frame, brief
from hpt_megatron.report.preferences import Scores
from hpt_megatron.report.series import short, ticks
from hpt_megatron.web import svg

PREFERRED, REJECTED = 0, 1  # colours
SMALLEST, LARGEST = 3.0, 10.0  # discs
SURE_FROM = 7 / 15  # the first bin that a confidence of one half lies in


def distribution(scores: Scores, unit: str, said: str) -> Chart:
    """Two histograms over one another; `unit` is what the axis counts."""
    sides = ((PREFERRED, "preferred", scores.chosen), (REJECTED, "rejected", scores.rejected))
    most = max(*scores.chosen, *scores.rejected) or 1
    frame = Frame((scores.edges[0], scores.edges[-1]), (0.0, most * 1.05))
    parts = [
        *axes(frame),
        *(part for colour, _, counts in sides for part in _pile(frame, scores.edges, counts, colour)),
    ]
    middles = [brief((low + high) / 2) for low, high in pairwise(scores.edges)]
    lines = [[label, colour, 0, middles, [brief(each) for each in counts]] for colour, label, counts in sides]
    return Chart(svg.drawing(WIDE, HIGH, said, parts), [*place(frame), lines, f"{unit} about"])


def _pile(frame: Frame, edges: Sequence[float], counts: Sequence[float], colour: int) -> list[str]:
    """One side: faint columns, and their outline, which stays to be seen under the other side's."""
    bottom = frame.y(0.0)
    boxes, outline = [], [(frame.x(edges[0]), bottom)]
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        left, right, top = frame.x(low), frame.x(high), frame.y(min(count, frame.values[1]))
        outline += [(left, top), (right, top)]
        if count:
            boxes.append((left, top, right - left, bottom - top))
    outline.append((frame.x(edges[-1]), bottom))
    return [svg.boxes(boxes, f"k{colour} pile"), svg.path(outline, f"k{colour} edge")]


def reliability(bins: Sequence[Bin], said: str) -> Chart:
    """The bins that have pairs; the axis begins at one half where no confidence lies below it."""
    low = SURE_FROM if all(each.low >= SURE_FROM - 1e-6 for each in bins) else 0.0
    frame = Frame((low, 1.0), (0.0, 1.05))
    sides = sorted({side for each in bins for side in (each.low, each.high) if low <= side < 1.0})
    parts = [svg.line(frame.x(side), frame.y(0.0), frame.x(side), frame.y(1.0)) for side in sides]
    parts += [*axes(frame), svg.line(frame.x(low), frame.y(low), frame.x(1.0), frame.y(1.0), "diagonal")]
    largest = max((each.pairs for each in bins), default=1) or 1
    for each in bins:
        x, right = frame.x(each.confidence), frame.y(each.right)
        size = max(SMALLEST, LARGEST * sqrt(each.pairs / largest))
        disc = svg.line(x, frame.y(each.confidence), x, right, "gap") + svg.dots([(x, right)], "disc", size)
        parts.append(f'<g class="k{PREFERRED}">{disc}</g>')
    at = [brief(each.confidence) for each in bins]
    lines = [
        ["right", PREFERRED, 0, at, [brief(each.right) for each in bins]],
        ["pairs", -1, 0, at, [each.pairs for each in bins]],
    ]
    return Chart(svg.drawing(WIDE, HIGH, said, parts), [*place(frame), lines, "confidence"])


def axes(frame: Frame) -> list[str]:
    """As those of curves, but with any numbers below."""
    parts = []
    for value in ticks(*frame.values):
        parts.append(svg.line(LEFT, frame.y(value), WIDE - RIGHT, frame.y(value)))
        parts.append(svg.text(LEFT - 6, frame.y(value) + 4, short(value), "end", "soft"))
    for value in ticks(*frame.steps, 7):
        x = frame.x(value)
        parts.append(svg.text(x, HIGH - 7, short(value), "end" if x > WIDE - 20 else "middle", "soft"))
    return parts


def place(frame: Frame) -> list[float]:
    """What the script knows of where a chart lies."""
    return [LEFT, WIDE - LEFT - RIGHT, *map(brief, frame.steps)]
