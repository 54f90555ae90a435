"""A report as Markdown: headline, every ten steps, validations, differences; for a paper's appendix or an issue.

Invariants
    1. A cell is one line, and no text of a run can end it.
    2. A column that a run has no number for is not there.

Example:
    >>> rows([["a|b", "1\\n2"]], ["name", "x"])
    ['| name | x |', '|---|---|', '| a\\\\|b | 1 2 |']
"""

from collections.abc import Sequence
from math import fsum

from hpt_megatron.report.about import about
from hpt_megatron.report.differences import differences
from hpt_megatron.report.folder import Numbers, Recorded
from hpt_megatron.report.headline import told
from hpt_megatron.report.overview import DASH, Summary, headline_rows, heads_of
from hpt_megatron.report.preference_section import HEADS, lines_of
from hpt_megatron.report.preferences import preferences_of
from hpt_megatron.report.series import short

EVERY, LINES_MOST = 10, 100
COLUMNS = (
    ("reward", "reward/mean"),
    ("success", "batch/solved"),
    ("SFT share", "uni/sft_data_ratio"),
    ("accuracy on pairs", "pairs/accuracy"),
    ("margin", "pairs/margin"),
    ("tokens", "agent/sampled_tokens_mean"),
    ("loss", "actor/loss"),
    ("gradient norm", "actor/grad_norm"),
    ("s a step", "timing_s/step"),
)


def markdown(summaries: Sequence[Summary]) -> str:
    """The whole file."""
    names = ", ".join(one.run.name for one in summaries)
    parts = [f"# {cell(names)}", ""]
    for one in summaries:
        parts.append(f"{cell(one.run.name)}: {cell(one.standing)}.")
    parts += ["", *rows(headline_rows(summaries), heads_of(summaries)), ""]
    for one in summaries:
        parts += [f"## {cell(one.run.name)}", "", *(f"- {line}" for line in told(one.line)), ""]
        parts += [*rows([list(pair) for pair in about(one.run)], ["what", "value"]), ""]
        parts += [*rows(table_of(one.run), ["steps", *(name for name, _ in columns_of(one.run))]), ""]
        tested = validations(one.run)
        parts += [*rows(tested[1:], tested[0]), ""] if len(tested) > 1 else []
        judged = preferences_of(one.run.folder).newest
        if judged is not None:
            parts += [f"Pairs at the validation of step {judged.step}:", "", *rows(lines_of(judged)[0], HEADS), ""]
    found = differences([one.run.config for one in summaries])
    if len(summaries) > 1:
        heads = ["key", *(one.run.name for one in summaries)]
        lines = rows([[key, *values] for key, values in found], heads) if found else ["No key differs."]
        parts += ["## Differences", "", *lines, ""]
    return "\n".join(parts)


def table_of(run: Recorded) -> list[list[str]]:
    """Means over every ten steps; over more, where a run has more than a thousand."""
    size = EVERY * max(1, -(-len(run.steps) // (EVERY * LINES_MOST)))
    found = []
    for start in range(0, len(run.steps), size):
        own = run.steps[start : start + size]
        steps = f"{own[0]['step']:.0f} to {own[-1]['step']:.0f}"
        found.append([steps, *(mean(own, name) for _, name in columns_of(run))])
    return found


def columns_of(run: Recorded) -> list[tuple[str, str]]:
    """Those of `COLUMNS` that some step has."""
    known = {name for numbers in run.steps for name in numbers}
    return [(said, name) for said, name in COLUMNS if name in known]


def mean(steps: Sequence[Numbers], name: str) -> str:
    """Of the steps that have the number."""
    values = [numbers[name] for numbers in steps if name in numbers]
    return short(fsum(values) / len(values)) if values else DASH


def validations(run: Recorded) -> list[list[str]]:
    """A line of heads, then one for each validation."""
    names = sorted({name for numbers in run.validations for name in numbers if name.startswith("val/")})
    lines = [
        [f"{numbers['step']:.0f}", *(short(numbers[name]) if name in numbers else DASH for name in names)]
        for numbers in run.validations[-LINES_MOST:]
    ]
    return [["step", *(name.removeprefix("val/") for name in names)], *lines]


def rows(lines: Sequence[Sequence[str]], heads: Sequence[str]) -> list[str]:
    """A table."""
    every = [[cell(text) for text in line] for line in [heads, *lines]]
    drawn = ["| " + " | ".join(line) + " |" for line in every]
    return [drawn[0], "|" + "---|" * len(heads), *drawn[1:]]


def cell(text: str) -> str:
    """A text that stays in its cell."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
