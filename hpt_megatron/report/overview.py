"""The first thing that a report shows: what the runs are, where they stand, and what they came to.

Invariant: a run that has not made its last step is never called finished, and its age is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from hpt_megatron.report.about import about, algorithm_of, model_of
from hpt_megatron.report.chart import run_colour
from hpt_megatron.report.folder import Recorded
from hpt_megatron.report.headline import ACCURACY, LOSS, REWARD, Headline, Pair, headline
from hpt_megatron.web.page import table

DASH = "-"
TESTED = {"val/pairs/accuracy": "accuracy on pairs", "val/demo_loss": "loss", "val/mean_score": "mean score"}


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
    found = []
    if line.main:
        error = f" &plusmn; {line.error:.3f}" if line.width > 1 else ""
        hoped = line.main.gain < 0 if line.held_to == LOSS else line.main.gain > 0
        moved = "good" if hoped and line.beyond_noise else ""
        found.append(card(CALLED[line.held_to], ends(line.main, 3), f"{signed(line.main.gain, 3)}{error}", moved))
    if line.accuracy and line.held_to != ACCURACY:
        found.append(card(CALLED[ACCURACY], ends(line.accuracy, 3), signed(line.accuracy.gain, 3)))
    if line.loss and line.held_to == ACCURACY:
        found.append(card(CALLED[LOSS], ends(line.loss, 3), signed(line.loss.gain, 3)))
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
    return f'<div class="cards">{"".join(found)}</div><p class="note">{windows(line)}</p>'


def windows(line: Headline) -> str:
    """Which steps the cards are about."""
    note = "Too few steps to compare."
    if line.width:
        note = f"Means over the first and last {line.window}"
        note += "; &plusmn; is one standard error of the gain." if line.width > 1 else "."
    if not line.without:
        return note
    if not line.steps:
        return f"{note} None of the {counted(line.without, 'step')} had any rollouts."
    said = ": imitation alone" if line.held_to == REWARD else ""
    return f"{note} The {counted(line.without, 'step')} before had none{said}."


def card(name: str, value: str, note: str, kind: str = "") -> str:
    """One number; value and note are HTML of ours."""
    return (
        f'<div class="card"><div class="note">{escape(name)}</div><div class="value">{value}</div>'
        f'<div class="note {kind}">{note}</div></div>'
    )


CALLED = {REWARD: "mean reward", ACCURACY: "accuracy on pairs", LOSS: "loss"}
HEADS = ("run", "steps", "reward, first", "last", "gain", "error", "SFT share, first", "last", "success, last")


def heads_of(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """The heads of the headline table: of rewards where some run has one, and of what else runs are held to."""
    other = [name for name in (ACCURACY, LOSS) if any(one.line.held_to == name for one in summaries)]
    first = HEADS if any(one.line.held_to == REWARD for one in summaries) else HEADS[:2]
    return first + tuple(head for name in other for head in (f"{CALLED[name]}, first", "last", "gain", "error"))


def headline_rows(summaries: Sequence[Summary]) -> list[list[str]]:
    """The headline table of several runs, as texts under the heads of `heads_of`."""
    heads = heads_of(summaries)
    rows = []
    for one in summaries:
        line, run = one.line, one.run
        of = f" / {run.total}" if run.total is not None and not run.ended else ""
        row = [run.name, f"{run.last}{of}"]
        if heads[: len(HEADS)] == HEADS:
            row += gained(line, REWARD)
            row += [percent(line.share.first), percent(line.share.last)] if line.share else [DASH] * 2
            row.append(percent(line.solved.last) if line.solved else DASH)
        for name in (ACCURACY, LOSS):
            row += gained(line, name) if f"{CALLED[name]}, first" in heads else []
        rows.append(row)
    return rows


def gained(line: Headline, name: str) -> list[str]:
    """First, last, gain and error, where a run is held to that."""
    pair = line.main if line.held_to == name else None
    if pair is None:
        return [DASH] * 4
    error = f"{line.error:.3f}" if line.width > 1 else DASH
    return [f"{pair.first:.3f}", f"{pair.last:.3f}", signed(pair.gain, 3), error]


def headline_table(summaries: Sequence[Summary]) -> str:
    """Several runs, a line each; how wide the windows are, and where those stand that have not ended."""
    widths = sorted({one.line.width for one in summaries})
    rewarded = all(one.line.held_to == REWARD for one in summaries)
    notes = [f"First and last: means over {' or '.join(map(str, widths))} steps{' with rollouts' * rewarded}."]
    notes += [f"{one.run.name}: {one.standing}." for one in summaries if not one.run.ended]
    said = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    heads = heads_of(summaries)
    return f'<div class="headline">{table(headline_rows(summaries), heads, range(1, len(heads)))}</div>{said}'


def what_it_is(summaries: Sequence[Summary]) -> str:
    """Names and values of each run."""
    told = [dict(about(one.run)) for one in summaries]
    names = list(dict.fromkeys(name for own in told for name in own))
    heads = ["", *(one.run.name for one in summaries)] if len(summaries) > 1 else []
    return table([[name, *(own.get(name, DASH) for own in told)] for name in names], heads)


def validated(run: Recorded) -> tuple[str, Pair] | None:
    """The first and the newest validation of one number: success, of the first data source, where that is there."""
    known = {name for numbers in run.validations for name in numbers}
    found = [
        *sorted(name for name in known if name.startswith("val/avg@")),
        *(name for name in TESTED if name in known),
    ]
    if not found:
        return None
    values = [numbers[found[0]] for numbers in run.validations if found[0] in numbers]
    return TESTED.get(found[0], found[0].removeprefix("val/")), Pair(values[0], values[-1])


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
