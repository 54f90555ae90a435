"""Decisions of a run: shares of the arms, successes, mean weights, and the map of prompts by steps."""

from typing import Any

from hpt_megatron.report.chart import ROW, arm_class, columns_chart, map_of
from hpt_megatron.report.curve_section import charts, names_of, steps_of
from hpt_megatron.report.decisions import Columns, arms_of, columns_of, gate_map, shares, successes
from hpt_megatron.report.figures import Figures, grid, legend
from hpt_megatron.report.folder import Recorded
from hpt_megatron.report.groups import Group

WEIGHTS = ("uni/mean_alpha", "uni/mean_beta", "uni/mean_off")
MEANS = Group("Mean weights", WEIGHTS, "alpha: exploring, beta: imitating")


def decided(run: Recorded, figures: Figures) -> tuple[str, dict[str, Any]]:
    """The section of one run, and what the script says of a place in the map."""
    columns = columns_of(sorted({visit.step for visit in run.visits}))
    if not columns:
        return '<p class="note">No decision is written.</p>', {}
    arms = shares(run.visits, columns)
    looks = [arm_class(arm) for arm in arms]
    keys = legend([(look, "", arm) for look, arm in zip(looks, arms, strict=True)])
    drawn = columns_chart("decisions", columns, arms, looks)
    parts = [figures.add(drawn, "Decisions", "share of the prompts of a step", keys)]
    parts += solved(run, columns, figures)
    known = names_of([run], steps_of)
    parts += charts([run], MEANS, [name for name in WEIGHTS if name in known], figures)
    gates, told = gate_section(run, columns, keys)
    return grid(parts) + gates, told


def solved(run: Recorded, columns: Columns, figures: Figures) -> list[str]:
    """How many rollouts of the prompts succeeded; nothing where nothing was sampled."""
    counts = successes(run.visits, columns)
    if not counts:
        return []
    looks = [shade(place, len(counts)) for place in range(len(counts))]
    entries = [("", look.replace("fill", "background"), name) for look, name in zip(looks, counts, strict=True)]
    drawn = columns_chart("successes", columns, counts, looks)
    return [figures.add(drawn, "Successes", "prompts by their successful rollouts", legend(entries))]


def gate_section(run: Recorded, columns: Columns, keys: str) -> tuple[str, dict[str, Any]]:
    """The map."""
    found = gate_map(run.visits, columns)
    some = f"{len(found.rows)} of {len(found.rows) + found.left_out} prompts" if found.left_out else "all prompts"
    said = (
        f"A row for each prompt ({some}), steps from left to right; those that stop imitating soonest come first. "
        "Strong where the prompt was visited, faint where that decision still holds. A click opens the prompt."
    )
    told = {"row": ROW, "arms": arms_of(run.visits)}
    told |= {"rows": [list(row) for row in found.rows], "columns": [list(each) for each in columns]}
    drawn = f'<div class="wide"><div class="gates">{map_of("gate map", found, columns)}</div></div>'
    return f'<h3>Gate map</h3><p class="note">{said}</p>{keys}{drawn}', told


def shade(place: int, count: int) -> str:
    """The colour of so many successes: from faint to strong."""
    part = 10 + 90 * place / max(1, count - 1)
    return f"fill:color-mix(in oklab, var(--c0) {part:.0f}%, var(--none))"
