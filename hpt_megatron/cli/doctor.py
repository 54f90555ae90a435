"""`hpt doctor`: one table of what this host has, what each missing part costs, and the command that brings it.

Exit code 0 when the embedded default can run on this host, 1 otherwise.

Example:
    $ hpt doctor --quick
"""

import argparse
import json
import math
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.errors import UserError
from hpt_megatron.host.survey import LIMIT, Finding, can_run, survey

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

PIPED_WIDTH = 100
BESIDE_NOTES = 56  # columns that the other cells take at most
NARROW = 70  # fewer columns leave the notes no room beside the other cells
COLOURS = {"ok": "green", "missing": "yellow", "low": "yellow", "fails": "red"}


def parser() -> Parser:
    """The options of the verb."""
    options = Parser(prog="hpt doctor", description=__doc__.split("\n")[0])
    options.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options.add_argument("--quick", action="store_true", help="read versions and limits only; try nothing")
    options.add_argument(
        "--limit", type=limit, default=LIMIT, metavar="SECONDS", help="what one trial may take (default: %(default)g)"
    )
    return options


def limit(text: str) -> float:
    """A time that a trial can be given."""
    try:
        given = float(text)
    except ValueError:
        given = math.nan
    if not (math.isfinite(given) and given > 0):
        raise argparse.ArgumentTypeError(f"a finite number above 0 is needed, not {text!r}")
    return given


def run(arguments: list[str]) -> int:
    """Surveys the host, prints what was found, and tells by the exit code whether the embedded default can run."""
    given = parser().parse_args(arguments)
    if not given.quick and sys.stderr.isatty():
        print("hpt: trying the engines, about 20 s ...", file=sys.stderr)
    findings = survey(quick=given.quick, limit=given.limit)
    ok = can_run(findings)
    if given.json:
        print(json.dumps({"ok": ok, "parts": [asdict(finding) for finding in findings]}, indent=2))
    else:
        show(findings)
        print(verdict(findings, given.quick))
    return 0 if ok else 1


def verdict(findings: list[Finding], quick: bool) -> str:
    """The closing line."""
    blocking = [
        f"{finding.name} {'is missing' if finding.status == 'missing' else 'fails'}"
        for finding in findings
        if finding.blocks
    ]
    if blocking:
        return f"The embedded default cannot run on this host: {', '.join(blocking)}."
    if quick:
        return "What the embedded default needs is installed; nothing was tried (--quick)."
    return "The embedded default can run on this host."


def show(findings: list[Finding]) -> None:
    """Prints a table as wide as the terminal, lines where that is narrow, and no remedy cut where it is piped."""
    try:
        from rich.console import Console
    except ModuleNotFoundError as error:  # the one verb that is asked before anything is installed
        raise UserError("the table needs rich", mend="`pip install -e .`, or ask with --json") from error

    console = Console(highlight=False)
    if not console.is_terminal:
        longest = max(len(finding.remedy) for finding in findings)
        console.width = max(PIPED_WIDTH, BESIDE_NOTES + longest)
    if console.width < NARROW:
        show_narrow(console, findings)
    else:
        console.print(table(findings))


def show_narrow(console: "Console", findings: list[Finding]) -> None:
    """Prints what stands in a row of the table on lines under one another."""
    from rich.padding import Padding
    from rich.text import Text

    for finding in findings:
        cells = (Text(finding.name, "bold"), status(finding), Text(finding.version), Text(seconds(finding, " s")))
        console.print(Text("  ").join(cell for cell in cells if cell))
        for note in (finding.detail, finding.cost):
            if note:
                console.print(Padding(Text(note), (0, 0, 0, 2)))
        if finding.remedy:  # the terminal breaks it, not we: copied, it is one command
            console.print(Text(f"  {finding.remedy}", "bold"), soft_wrap=True)


def status(finding: Finding) -> "Text":
    """The status in its colour."""
    from rich.text import Text

    return Text(finding.status, COLOURS[finding.status])


def seconds(finding: Finding, unit: str = "") -> str:
    """What the trial took; empty when nothing was tried."""
    return "" if finding.seconds is None else f"{finding.seconds:.1f}{unit}"


def table(findings: list[Finding]) -> "Table":
    """One row per finding; cost and remedy stand under what was found."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE, pad_edge=False)
    grid.add_column("part", no_wrap=True)
    grid.add_column("status", no_wrap=True)
    grid.add_column("version", no_wrap=True)
    grid.add_column("s", justify="right", no_wrap=True)
    grid.add_column("what was found, what it costs, what brings it", overflow="fold")
    for finding in findings:
        notes = Text("\n").join(
            Text(text, style=style)  # Text, not markup: a remedy such as '.[cpu]' would be read as a tag
            for text, style in ((finding.detail, ""), (finding.cost, ""), (finding.remedy, "bold"))
            if text
        )
        grid.add_row(Text(finding.name), status(finding), Text(finding.version), seconds(finding), notes)
    return grid
