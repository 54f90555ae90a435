"""`hpt human-eval export RUN OUT`, `hpt human-eval import RUN FILE...`: people rate responses of a run, blind.

RUN is the folder of a run or of an evaluation. OUT is a folder to hand to raters: CSV, JSON lines, and a page to rate
on. `import` compares what they said with the reward, and writes it to RUN/human_eval.json.

Example:
    $ hpt human-eval export runs/tiny-hpt sheet --n 50
    $ hpt human-eval import runs/tiny-hpt sheet/ratings.csv
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.cli.data import count, short
from hpt_megatron.cli.tiny import seed
from hpt_megatron.errors import UserError


def steps(text: str) -> range:
    """A:B, both included; either may be left out.

    >>> steps("10:20"), steps(":5"), steps("7")
    (range(10, 21), range(0, 6), range(7, 8))
    """
    first, colon, last = text.partition(":")
    parts = [part for part in (first, last) if part]
    if not parts or not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise argparse.ArgumentTypeError(f"A:B is needed, such as 10:20, not {text[:40]!r}")
    start = int(first) if first else 0
    end = (int(last) if last else 10**9) if colon else start
    if end < start:
        raise argparse.ArgumentTypeError(f"{text!r} ends before it begins")
    return range(start, end + 1)


def number(text: str) -> float:
    """A finite number."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"a number is needed, not {text[:40]!r}")
    return found


def takes_responses(options: Parser) -> None:
    """Adds which responses are meant, and where their prompts are."""
    options.add_argument("--steps", type=steps, metavar="A:B", help="of these steps, both included (default: all)")
    options.add_argument("--purpose", choices=("train", "validate"), help="responses of training or of validation")
    takes_prompts(options)


def takes_prompts(options: Parser) -> None:
    """Adds where prompts are, if not where the run says."""
    options.add_argument("--data", nargs="+", default=[], metavar="FILE", help="the data files, if they have moved")
    options.add_argument("--image-root", metavar="DIR", help="where relative paths of images start")


def parser() -> Parser:
    """The verb's own verbs and their options."""
    options = Parser(prog="hpt human-eval", description=(__doc__ or "").splitlines()[0])
    verbs = options.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    one = verbs.add_parser("export", help="draw responses, and write a sheet without what the reward says of them")
    one.add_argument("run", type=Path, metavar="RUN", help="the folder of a run or of an evaluation")
    one.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    one.add_argument("--n", type=count, default=50, metavar="N", help="responses, or pairs of them (50)")
    one.add_argument("--pairs", action="store_true", help="two responses to the same prompt, to choose from")
    one.add_argument("--every", type=count, metavar="K", help="N of each step that K divides, instead of N of all")
    one.add_argument("--seed", type=seed, default=0, metavar="N", help="of what is drawn, and of the order (0)")
    takes_responses(one)
    two = verbs.add_parser("import", help="how far the ratings agree with the reward")
    two.add_argument("run", type=Path, metavar="RUN", help="the same folder")
    two.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="a filled-in sheet, .csv or .jsonl, of each rater"
    )
    two.add_argument(
        "--pass-score", type=number, metavar="X", help="a response passes from this score on (default: the run's rule)"
    )
    for each in (one, two):
        each.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def run(arguments: list[str]) -> int:
    """Runs one of them."""
    given = parser().parse_args(arguments)
    return export(given) if given.verb == "export" else bring_in(given)


def chosen_purpose(given: argparse.Namespace, known: list[str], otherwise: str) -> str:
    """The one that is asked for, or the usual one, or the only one."""
    purpose = given.purpose or (otherwise if otherwise in known else known[0])
    if purpose not in known:
        raise UserError(f"has no responses of {purpose}", where=str(given.run), mend=f"--purpose {known[0]}")
    return str(purpose)


def export(given: argparse.Namespace) -> int:
    """Writes a sheet."""
    from hpt_megatron.feedback.human_sheet import Draw, export
    from hpt_megatron.feedback.written import find, records_of

    found = find(given.run)
    purpose = chosen_purpose(given, found.purposes(), "validate")
    records = records_of(found, purpose, given.data, given.image_root)
    how = Draw(count=given.n, pairs=given.pairs, seed=given.seed, steps=given.steps, every=given.every)
    sheet = export(found, purpose, records, how, given.out)
    if given.json:
        told = {"sheet": sheet.name, "items": sheet.items, "folder": str(sheet.folder), "key": str(sheet.key)}
        print(json.dumps(told, indent=2))
        return 0
    print(f"{'items':<8} {sheet.items:,} of {purpose}, sheet {sheet.name}")
    print(f"{'wrote':<8} {short(str(sheet.folder))}: form.html, ratings.csv, ratings.jsonl")
    print(f"{'key':<8} {short(str(sheet.key))}, not for raters")
    return 0


def bring_in(given: argparse.Namespace) -> int:
    """Reads ratings."""
    from hpt_megatron.feedback.human_ratings import RESULT, imported
    from hpt_megatron.feedback.written import find

    told = imported(find(given.run), given.files, given.pass_score)
    if given.json:
        print(json.dumps({"sheets": told}, indent=2))
        return 0
    for sheet, one in told.items():
        print(f"sheet {sheet}: {one['items'] - one['not_rated']:,} of {one['items']:,} items rated")
        (show_pairs if one["kind"] == "pair" else show_ratings)(one["by_source"])
        if one["by_step"]:
            print("by step")
            (show_pairs if one["kind"] == "pair" else show_ratings)(one["by_step"])
        raters = {name: value for name, value in one["raters"].items() if name != "files"}
        if raters:
            print("raters among themselves: " + ", ".join(f"{name} {value:.3f}" for name, value in raters.items()))
    print(f"wrote {short(str(given.run / RESULT))}")
    return 0


def show_ratings(by: dict[str, Any]) -> None:
    """A line for each source or step."""
    print(f"  {'':<16}{'rated':>7}{'pearson':>24}{'spearman':>24}{'same order':>12}{'kappa':>8}")
    for name, one in by.items():
        print(
            f"  {short(name):<16}{one['rated']:>7,}{between(one['pearson']):>24}{between(one['spearman']):>24}"
            f"{figure(one['pairwise_accuracy']['value']):>12}{figure(one['pass_kappa']['value']):>8}"
        )


def show_pairs(by: dict[str, Any]) -> None:
    """A line for each source or step."""
    print(f"  {'':<16}{'rated':>7}{'ties':>6}{'chosen as the score does':>28}")
    for name, one in by.items():
        print(f"  {short(name):<16}{one['rated']:>7,}{one['ties']:>6,}{between(one['pairwise_accuracy']):>28}")


def figure(value: float | None) -> str:
    """A number, or a line where there is none."""
    return "-" if value is None else f"{value:.3f}"


def between(told: dict[str, Any]) -> str:
    """A number with its interval.

    >>> between({"value": 0.5, "interval": [0.25, 0.75]})
    '0.500 [0.250 0.750]'
    """
    interval = told["interval"]
    return figure(told["value"]) + (f" [{interval[0]:.3f} {interval[1]:.3f}]" if interval else "")
