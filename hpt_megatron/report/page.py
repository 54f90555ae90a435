"""A report as one HTML file.

Pictures are drawn here; the script, which is in the file too, only shows and hides, answers a pointer, and fills the
two sections in which one looks things up. Without it everything but those two can be read. A section that would be
empty is left out: a reward model decides and samples nothing, and most runs learn from no pairs.

Invariants
    1. Texts of models and data reach the page as JSON and are put into it as text, never as HTML.
    2. The page is bounded, whatever the run: points of curves, prompts, rollouts, images each have a limit, and what is
       left out is said.

Example: Path("report.html").write_text(page([read(Path("runs/tiny-hpt"))], time.time()))
"""

import time as clock_of
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from zlib import crc32

from hpt_megatron.report import overview
from hpt_megatron.report.chart import run_colour
from hpt_megatron.report.configuration_section import configuration
from hpt_megatron.report.curve_section import all_curves, hero, whole
from hpt_megatron.report.decision_section import decided
from hpt_megatron.report.decisions import arms_of, histories, kind_of
from hpt_megatron.report.figures import Figures, folded
from hpt_megatron.report.folder import Recorded
from hpt_megatron.report.overview import Summary
from hpt_megatron.report.preference_section import preferred
from hpt_megatron.report.preferences import preferences_of
from hpt_megatron.report.prompts import IMAGES_MOST, prompts_of
from hpt_megatron.report.rollouts import KEPT_MOST, Kept, keep
from hpt_megatron.report.usage_section import times, usage
from hpt_megatron.web.page import page as framed

HERE = Path(__file__).parent
SCRIPTS = ("page.js", "explore.js")
TABS = ("Overview", "Curves", "Preferences", "Decisions", "Prompts", "Rollouts", "Time", "Configuration")
VISITS_MOST = 20_000
FEW_NOTES = 3


def page(runs: Sequence[Recorded], now_s: float) -> str:
    """The whole file; `now_s` is when it is made, seconds since the epoch."""
    summaries = [Summary.of(run, now_s) for run in runs]
    figures = Figures()
    maps: list[Mapping[str, Any]] = []
    made = clock_of.strftime("%Y-%m-%d %H:%M", clock_of.localtime(now_s))
    bodies = {
        "Overview": _overview(summaries, figures),
        "Curves": all_curves(runs, figures),
        "Preferences": _preferences(runs, figures),
        "Decisions": _decisions(runs, figures, maps),
        "Prompts": [""],
        "Rollouts": [""],
        "Time": _times(runs, figures),
        "Configuration": [configuration(runs)],
    }
    data, notes = _data(runs)
    data |= {"charts": figures.numbers, "maps": maps}
    for title, said in notes.items():
        text = "".join(f'<p class="note">{escape(each)}</p>' for each in said)
        bodies[title].insert(0, text if len(said) <= FEW_NOTES else folded("What is here, and what is left out", text))
    shown = [title for title in TABS if _is_there(title, runs, bodies)]
    tabs = "".join(f'<a href="#{title.lower()}">{title}</a>' for title in shown)
    body = [*overview.head(summaries, made), f'<nav class="tabs">{tabs}</nav>']
    body += [_section(title, bodies[title]) for title in shown]
    names = ", ".join(run.name for run in runs)
    return framed(f"{names}: report", body, style=_style(len(runs)), script=_script(), data=data)


def _is_there(title: str, runs: Sequence[Recorded], bodies: Mapping[str, Sequence[str]]) -> bool:
    """Whether some run has what a section shows; one whose rollouts are not written says so."""
    if title in ("Decisions", "Prompts"):
        return any(run.visits for run in runs)
    if title == "Rollouts":
        return any(run.files or run.visits for run in runs)
    return title != "Preferences" or any(bodies[title])


def _section(title: str, parts: Sequence[str]) -> str:
    return f'<section id="{title.lower()}"><h2>{title}</h2>{"".join(parts)}</section>'


def _overview(summaries: Sequence[Summary], figures: Figures) -> list[str]:
    runs = [one.run for one in summaries]
    first = overview.cards(summaries[0]) if len(runs) == 1 else overview.headline_table(summaries)
    torn = sum(run.torn for run in runs)
    said = f'<p class="note">{torn} lines that are torn or no lines of ours were left out.</p>' if torn else ""
    return [first, said, hero(runs, figures), "<h3>What it is</h3>", overview.what_it_is(summaries)]


def _decisions(runs: Sequence[Recorded], figures: Figures, maps: list[Mapping[str, Any]]) -> list[str]:
    parts = []
    for number, run in enumerate(runs):
        drawn, told = decided(run, figures)
        maps.append(told)
        parts.append(f'<div class="run{number}">{_named(runs, run)}{drawn}</div>')
    return parts


def _preferences(runs: Sequence[Recorded], figures: Figures) -> list[str]:
    found = [preferred(preferences_of(run.folder), figures) for run in runs]
    pairs = enumerate(zip(runs, found, strict=True))
    return [f'<div class="run{number}">{_named(runs, run)}{drawn}</div>' for number, (run, drawn) in pairs if drawn]


def _times(runs: Sequence[Recorded], figures: Figures) -> list[str]:
    parts = [
        f'<div class="run{number}">{_named(runs, run)}{times(run, figures)}</div>' for number, run in enumerate(runs)
    ]
    return [*parts, "<h3>Memory and use</h3>", usage(runs, figures)]


def _named(runs: Sequence[Recorded], run: Recorded) -> str:
    return f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""


def _data(runs: Sequence[Recorded]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """What the script looks things up in, and what it does not hold."""
    arms = arms_of([visit for run in runs for visit in run.visits])
    prompts, left_out = prompt_rows(runs, arms)
    rollouts: list[dict[str, Any]] = []
    pool: dict[str, int] = {}
    asked: list[Any] = []
    where: dict[str, int] = {}
    notes: dict[str, list[str]] = {"Prompts": [], "Rollouts": []}
    if left_out:
        notes["Prompts"].append(f"{len(prompts):,} prompts are here; {left_out:,} more are left out, by chance.")
    for number, run in enumerate(runs):
        kept = keep(run, max(24, KEPT_MOST // len(runs)))
        rollouts += [{"run": number, **one} for one in kept.rollouts]
        wanted = {(one["purpose"], one["uid"]) for one in kept.rollouts}
        found = prompts_of(run, wanted, IMAGES_MOST // len(runs))
        for (purpose, uid), told in found.prompts.items():
            place = pool.setdefault(repr(told), len(asked))
            if place == len(asked):
                asked.append(told)
            where[f"{number}/{purpose}/{uid}"] = place
        named = f"{run.name}: " if len(runs) > 1 else ""
        notes["Rollouts"] += [f"{named}{what}" for what in _kept_words(kept)]
        notes["Rollouts"] += [f"{named}{what}." for what in found.notes]
        if run.files and run.value("reward.learned.runs"):
            what = "scores here are those of the rules; what reward models said of each rollout is in RUN/learned"
            notes["Rollouts"].append(f"{named}{what}.")
    data = {
        "runs": [run.name for run in runs],
        "steps": [int(end) for end in whole(runs)],
        "colours": [run_colour(number) for number in range(len(runs))],
        "arms": arms,
        "prompts": prompts,
        "rollouts": rollouts,
        "asked": asked,
        "where": where,
    }
    return data, notes


def _kept_words(kept: Kept) -> list[str]:
    if not kept.of:
        return ["No rollout is written."]
    here = len(kept.rollouts)
    odd = [f"{kept.odd:,} lines hold something that is no rollout of ours."] if kept.odd else []
    if kept.files < kept.of:
        read = f"{kept.seen:,} in {kept.files} of {kept.of} files"
        return [f"{here:,} rollouts are here, out of {read}: the others were not read.", *odd]
    if here < kept.seen:
        which = "best and worst ones of some steps and of prompts that changed"
        return [f"{here:,} of {kept.seen:,} rollouts are here: {which}.", *odd]
    return [f"All {kept.seen:,} rollouts are here.", *odd]


def prompt_rows(runs: Sequence[Recorded], arms: Sequence[str]) -> tuple[list[list[Any]], int]:
    """Each prompt with its kinds and its visits by run (step, successes, rollouts, arm); and how many are left out."""
    own = [histories(run.visits) for run in runs]
    uids = list(dict.fromkeys(uid for found in own for uid in found))
    uids.sort(key=lambda uid: (crc32(uid.encode("utf-8", "replace")), uid))
    number = {arm: place for place, arm in enumerate(arms)}
    rows: list[list[Any]] = []
    used = 0
    for uid in uids:
        seen = [found.get(uid, []) for found in own]
        used += sum(map(len, seen))
        if used > VISITS_MOST:
            break
        visits = [[[visit.step, visit.k, visit.n, number[visit.arm]] for visit in each] for each in seen]
        rows.append([uid, [kind_of(each) if each else "" for each in seen], visits])
    rows.sort(key=lambda row: str(row[0]))
    return rows, len(uids) - len(rows)


def _style(runs: int) -> str:
    hidden = "".join(f".hide{number} .run{number} {{ display: none; }}\n" for number in range(runs))
    return (HERE / "page.css").read_text(encoding="utf-8") + hidden


def _script() -> str:
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
