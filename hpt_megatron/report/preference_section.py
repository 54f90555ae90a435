"""How a run tells preferred answers from others, at its newest validation: numbers, two pictures, a table by domain.

Invariant: the pictures say nothing that the tables of the section do not, so it can be read without a pointer, and
without seeing.

Example: preferred(preferences_of(run.folder), Figures())
"""

from itertools import pairwise

from hpt_megatron.report.figures import Figures, folded, grid, legend
from hpt_megatron.report.folder import Numbers
from hpt_megatron.report.overview import DASH, card, counted
from hpt_megatron.report.pair_chart import PREFERRED, REJECTED, distribution, reliability
from hpt_megatron.report.preferences import Judged, Preferences
from hpt_megatron.report.series import short
from hpt_megatron.web.page import table

DOMAINS_MOST = 60
SCORES = "bradley_terry"
LOG_ODDS = (SCORES, "dpo")
"""Losses that make the difference of two worths a log-odds."""
CARDS = (
    ("accuracy", "accuracy", "preferred above rejected; a tie is half"),
    ("ECE", "ece", "calibration error, 15 bins"),
    ("Brier score", "brier", "0 is sure and right, 0.25 a guess"),
    ("AUC", "auc", "any preferred above any rejected"),
    ("separation", "separation", "of the means, in standard deviations"),
)
HEADS = ("domain", "pairs", "accuracy", "margin", "Brier", "ECE", "AUC")
COLUMNS = ("accuracy", "margin", "brier", "ece", "auc")


def preferred(found: Preferences, figures: Figures) -> str:
    """The section of one run; nothing where it has no such file."""
    if not found.files:
        return ""
    odd = ""
    if found.odd:
        what = "file that is" if found.odd == 1 else "files that are"
        odd = f'<p class="note">{found.odd:,} newer {what} torn or none of ours: left out.</p>'
    judged = found.newest
    if judged is None:
        return odd.replace(" newer", "")
    shown = [
        f'<p class="note">Validation of step {judged.step:,}: {counted(judged.pairs, "pair")} that nothing is trained'
        f" on. {worth_of(judged.loss)}</p>",
        f'<div class="cards">{"".join(card(name, said(judged.numbers, key), note) for name, key, note in CARDS)}</div>',
        grid([scores_figure(judged, figures), reliability_figure(judged, figures)]),
        "<h3>By domain</h3>",
        by_domain(judged),
        folded("The numbers of both pictures", behind(judged)),
    ]
    return odd + "".join(shown)


def worth_of(loss: str) -> str:
    """What the scores are; a name that is none of ours is not repeated."""
    if loss == SCORES:
        return "A score is what the head says at the end of the answer."
    if loss in ("dpo", "ipo", "kto"):
        text = "A score is the log-ratio of the answer against the reference, times beta."
    else:
        text = "A score is the mean log-prob of a token of the answer, times beta."
    if loss not in LOG_ODDS:
        text += " This loss does not make their difference a log-odds: read ECE and Brier score with care."
    return text


def said(numbers: Numbers, name: str) -> str:
    """A number for a card or a cell."""
    value = numbers.get(name)
    if value is None:
        return DASH
    if name == "separation" or 0 < abs(value) < 0.0005 or abs(value) >= 1000:
        return short(value)
    return f"{value:.3f}"


def scores_figure(judged: Judged, figures: Figures) -> str:
    """Where the scores of both sides lie."""
    numbers = judged.numbers
    name = f"scores of preferred and rejected answers: separation {said(numbers, 'separation')}"
    drawn = distribution(judged.scores, "score", f"{name}, AUC {said(numbers, 'auc')}")
    keys = legend([(f"k{PREFERRED}", "", "preferred"), (f"k{REJECTED}", "", "rejected")])
    note = f"answers by their score; separation {said(numbers, 'separation')}, AUC {said(numbers, 'auc')}"
    return figures.add(drawn, "Scores", note, keys)


def reliability_figure(judged: Judged, figures: Figures) -> str:
    """How often it is right where it is so sure."""
    numbers = judged.numbers
    short_of = f"ECE {said(numbers, 'ece')}, Brier score {said(numbers, 'brier')}"
    drawn = reliability(judged.bins, f"reliability: share that is right by confidence; {short_of}")
    keys = legend([(f"k{PREFERRED}", "", "bins of 1/15, larger with more pairs"), ("dashes", "", "as sure as right")])
    return figures.add(drawn, "Reliability", f"share that is right, by confidence; {short_of}", keys)


def by_domain(judged: Judged) -> str:
    """As HTML."""
    lines, left_out = lines_of(judged)
    note = "Of few pairs, ECE is mostly chance."
    if left_out:
        note += f" {counted(left_out, 'domain')} with fewer pairs left out."
    return f'{table(lines, HEADS, range(1, len(HEADS)))}<p class="note">{note}</p>'


def lines_of(judged: Judged) -> tuple[list[list[str]], int]:
    """All pairs, then each domain; those with most pairs where there are too many, and how many are left out."""
    lines = [["all", f"{judged.pairs:,}", *cells(judged.numbers)]]
    kept = sorted(judged.domains.items(), key=lambda pair: (-pair[1]["pairs"], pair[0]))[:DOMAINS_MOST]
    lines += [[name, f"{numbers['pairs']:,.0f}", *cells(numbers)] for name, numbers in sorted(kept)]
    return lines, len(judged.domains) - len(kept)


def cells(numbers: Numbers) -> list[str]:
    """The columns behind the pairs."""
    return [said(numbers, name) for name in COLUMNS]


def behind(judged: Judged) -> str:
    """What the pictures are drawn from."""
    bins = [
        [f"{each.low:.3f} to {each.high:.3f}", f"{each.pairs:,}", f"{each.confidence:.3f}", f"{each.right:.3f}"]
        for each in judged.bins
    ]
    scores = judged.scores
    sides = zip(pairwise(scores.edges), scores.chosen, scores.rejected, strict=True)
    columns = [
        [f"{short(low)} to {short(high)}", f"{chosen:,}", f"{rejected:,}"]
        for (low, high), chosen, rejected in sides
        if chosen or rejected
    ]
    first = table(columns, ["score", "preferred", "rejected"], [1, 2])
    second = table(bins, ["confidence, from to", "pairs", "mean confidence", "right"], [1, 2, 3])
    return f'<div class="beside">{first}{second}</div>'
