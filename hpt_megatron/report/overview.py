"""The first thing that a report shows: what the runs are, where they stand, and what they came to.

Invariant: a run that has not made its last step is never called finished, and its age is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from hpt_megatron.report.about import about, algorithm_of, model_of
from hpt_megatron.report.chart import run_colour
from hpt_megatron.report.folder import Recorded
from hpt_megatron.report.headline import Headline, Pair, headline
from hpt_megatron.web.page import table

DASH = "-"


@dataclass(frozen=True)
class Summary:
    """A run with its headline and when it was looked at."""

    run: Recorded
    line: Headline
    now_s: float

    @classmethod
    def of(cls, run: Recorded, now_s: float) -> "Summary":
        """With the headline that its steps make."""
        return cls(run, headline(run.steps), now_s)

    @property
    def standing(self) -> str:
        """Where it stands, in words."""
        run = self.run
        if run.ended:
            return f"ended after {counted(run.last, 'step')}"
        of = f" of {run.total:,}" if run.total is not None else ""
        ago = age(max(0.0, self.now_s - run.written_s))
        return f"step {run.last:,}{of}, written {ago} before this report: in progress, or stopped"

    @property
    def seconds(self) -> float:
        """Of all steps together."""
        return sum(numbers.get("timing_s/step", 0.0) for numbers in self.run.steps)


def head(summaries: Sequence[Summary], made: str) -> list[str]:
    """Title and a line for each run."""
    if len(summaries) == 1:
        only = summaries[0]
        return [
            f"<h1>{escape(only.run.name)}</h1>",
            f"<p>{escape('; '.join(filter(None, (model_of(only.run), algorithm_of(only.run)))))}</p>",
            f'<p class="note">{escape(only.standing)} &middot; report of {escape(made)}</p>',
        ]
    return [
        f"<h1>{len(summaries)} runs compared</h1>",
        f'<p class="note">report of {escape(made)}; a click on a run hides it in all curves</p>',
        f'<div class="runs">{"".join(chip(number, one) for number, one in enumerate(summaries))}</div>',
    ]


def chip(number: int, one: Summary) -> str:
    """The button of a run, in its colour."""
    return (
        f'<button type="button" class="chip" data-run="{number}" aria-pressed="true">'
        f'<i class="key k{run_colour(number)}"></i>{escape(one.run.name)}</button>'
    )


def cards(one: Summary) -> str:
    """The headline of a run, large."""
    line, run = one.line, one.run
    which = "step" if line.width == 1 else f"{line.width} steps"
    windows = f"first and last {which} with rollouts"
    found = []
    if line.reward:
        error = f" &plusmn; {line.error:.3f}" if line.width > 1 else ""
        moved = "good" if line.gain and line.gain > 0 and line.beyond_noise else ""
        found.append(card("mean reward", ends(line.reward, 3), f"{signed(line.reward.gain, 3)}{error}", moved))
    if line.share:
        found.append(card("SFT share", ends(line.share, 0, 100, " %"), signed(100 * line.share.gain, 0) + " points"))
    if line.solved:
        found.append(card("success", ends(line.solved, 0, 100, " %"), signed(100 * line.solved.gain, 0) + " points"))
    tested = validated(run)
    if tested:
        name, pair = tested
        found.append(card(f"validation, {name}", ends(pair, 3), f"{signed(pair.gain, 3)}, first to newest"))
    of = f" of {run.total:,}" if run.total is not None else ""
    each = one.seconds / len(run.steps)
    found.append(card("steps", f"{run.last:,}{of}", f"{clock(one.seconds)}, {each:.3g} s a step"))
    note = f'<p class="note">Means over the {windows}' if line.width else '<p class="note">Too few steps to compare.'
    if line.width:
        note += "; &plusmn; is one standard error of the gain." if line.width > 1 else "."
    if line.without:
        note += f" The {counted(line.without, 'step')} before had none: imitation alone."
    return f'<div class="cards">{"".join(found)}</div>{note}</p>'


def card(name: str, value: str, note: str, kind: str = "") -> str:
    """One number; value and note are HTML of ours."""
    return (
        f'<div class="card"><div class="note">{escape(name)}</div><div class="value">{value}</div>'
        f'<div class="note {kind}">{note}</div></div>'
    )


HEADS = ("run", "steps", "reward, first", "last", "gain", "error", "SFT share, first", "last", "success, last")


def headline_rows(summaries: Sequence[Summary]) -> list[list[str]]:
    """The headline table of several runs, as texts under `HEADS`."""
    rows = []
    for one in summaries:
        line, run = one.line, one.run
        of = f" / {run.total}" if run.total is not None and not run.ended else ""
        rows.append(
            [
                run.name,
                f"{run.last}{of}",
                *([f"{line.reward.first:.3f}", f"{line.reward.last:.3f}"] if line.reward else [DASH] * 2),
                signed(line.reward.gain, 3) if line.reward else DASH,
                f"{line.error:.3f}" if line.width > 1 else DASH,
                *([percent(line.share.first), percent(line.share.last)] if line.share else [DASH] * 2),
                percent(line.solved.last) if line.solved else DASH,
            ]
        )
    return rows


def headline_table(summaries: Sequence[Summary]) -> str:
    """Several runs, a line each; how wide the windows are, and where those stand that have not ended."""
    widths = sorted({one.line.width for one in summaries})
    notes = [f"First and last: means over {' or '.join(map(str, widths))} steps with rollouts."]
    notes += [f"{one.run.name}: {one.standing}." for one in summaries if not one.run.ended]
    said = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    return f'<div class="headline">{table(headline_rows(summaries), HEADS, range(1, len(HEADS)))}</div>{said}'


def what_it_is(summaries: Sequence[Summary]) -> str:
    """Names and values of each run."""
    told = [dict(about(one.run)) for one in summaries]
    names = list(dict.fromkeys(name for own in told for name in own))
    heads = ["", *(one.run.name for one in summaries)] if len(summaries) > 1 else []
    return table([[name, *(own.get(name, DASH) for own in told)] for name in names], heads)


def validated(run: Recorded) -> tuple[str, Pair] | None:
    """The first and the newest validation of one number: success, of the first data source."""
    names = sorted({name for numbers in run.validations for name in numbers if name.startswith("val/avg@")})
    if not names:
        return None
    values = [numbers[names[0]] for numbers in run.validations if names[0] in numbers]
    return names[0].removeprefix("val/"), Pair(values[0], values[-1])


def ends(pair: Pair, places: int, scale: float = 1.0, unit: str = "") -> str:
    """From where to where."""
    first, last = f"{scale * pair.first:.{places}f}", f"{scale * pair.last:.{places}f}"
    return f'<span class="from">{first}{unit} &rarr;</span> {last}{unit}'


def percent(share: float) -> str:
    """A share of 1."""
    return f"{100 * share:.0f} %"


def signed(value: float, places: int) -> str:
    """With its sign, also where it is none.

    >>> signed(0.25, 2), signed(-0.001, 2)
    ('+0.25', '0.00')
    """
    text = f"{value:+.{places}f}"
    return text.lstrip("+-") if not float(text) else text


def clock(seconds: float) -> str:
    """A long time in words.

    >>> clock(42.4), clock(605), clock(7322)
    ('42 s', '10 min 5 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def age(seconds: float) -> str:
    """How long ago, roughly."""
    return clock(seconds) if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def counted(number: int, what: str) -> str:
    """A number with its noun."""
    return f"{number:,} {what}{'s' * (number != 1)}"
