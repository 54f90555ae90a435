"""`hpt sweep run|submit|status|collect|report`: many runs that differ in a few keys, and one table of them.

    run NAME|FILE [OVERRIDE...]       here, --jobs of them side by side; a search, where the file says so
    submit NAME|FILE [OVERRIDE...]    as one job array of SLURM, --concurrent of them at a time
    status FOLDER                     how far each point is
    collect FOLDER                    the table and the figure, as files
    report FOLDER                     the same, and one page of the runs side by side

`hpt train --multirun a=1,2` and `hpt submit --multirun a=1,2` are the same without a file. The same sweep asked for
again goes on; one with more values has what it had.

Example:
    $ hpt sweep run tiny-grid --jobs 2
    $ hpt sweep submit hpt-grid model.path=... cluster.account=vision --concurrent 4
    $ hpt sweep report runs/tiny-grid
"""

import sys
from pathlib import Path
from typing import Any

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.errors import HptError, UserError

ACTIONS = ("run", "submit", "status", "collect", "report")
PAGE_MOST = 12
"""Runs of one page: more are too many to look at side by side, so the best are shown."""


def run(arguments: list[str]) -> int:
    """Runs one action."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    action, rest = arguments[0], arguments[1:]
    if action not in ACTIONS:
        raise UserError(f"no such action: {action}", where="hpt sweep", mend=f"one of {', '.join(ACTIONS)}")
    return _start(action, rest) if action in ("run", "submit") else _look(action, rest)


def _start(action: str, arguments: list[str]) -> int:
    options = Parser(prog=f"hpt sweep {action}", description=__doc__.splitlines()[0])
    options.add_argument("sweep", metavar="NAME|FILE", help="of configs/sweep, or a file of that form")
    options.takes_run()
    takes_out(options)
    takes_jobs(options) if action == "run" else takes_array(options)
    asked = options.read(arguments)

    from hpt_megatron.config.sweep import read_sweep

    sweep = read_sweep(asked.sweep)
    folder = (asked.out or Path("runs") / sweep.name).absolute()
    if action == "submit":
        if sweep.search:
            mend = "`hpt sweep run` in a job of your own"
            raise UserError("a search asks for its points one by one, and has no array", where=asked.sweep, mend=mend)
        return submit([*sweep.overrides, *asked.overrides], folder, asked, sweep.metric, sweep.goal)
    if sweep.search:
        from hpt_megatron.sweeps.search import search

        failed = search(sweep, asked.overrides, folder, checked(asked.jobs, 1, "--jobs"), sys.stdout, asked.config_dir)
        return finish(folder, failed)
    return here([*sweep.overrides, *asked.overrides], folder, asked, sweep.metric, sweep.goal)


def takes_out(options: Parser) -> None:
    """Where a sweep lies."""
    options.add_argument("--out", type=Path, metavar="FOLDER", help="where the runs of a sweep lie")


def takes_jobs(options: Parser) -> None:
    """How many runs are at work, here."""
    options.add_argument("--jobs", type=int, metavar="N", help="runs of a sweep at work side by side (1)")


def takes_array(options: Parser) -> None:
    """How an array is submitted."""
    options.add_argument("--concurrent", type=int, metavar="N", help="tasks of an array at a time (4)")
    options.add_argument("--after", default="", metavar="NUMBER", help="start when that job has ended")
    options.add_argument("--dry-run", action="store_true", help="print the script and write nothing")


def checked(asked: int | None, usual: int, where: str) -> int:
    """1 or more."""
    number = usual if asked is None else asked
    if number < 1:
        raise UserError(f"is {number}", where=where, mend="1 or more")
    return number


def job_number(text: str) -> str:
    """Of `--after`."""
    if text and not text.isdecimal():
        raise UserError(f"is no number of a job: {text!r}", where="--after", mend="what `hpt submit` printed")
    return text


def here(given: list[str], folder: Path, asked: Any, metric: str, goal: str) -> int:
    """On this host."""
    from hpt_megatron.sweeps.here import run_here
    from hpt_megatron.sweeps.plan import planned

    plan = planned(given, folder, asked.config_dir, metric, goal)
    print(f"{len(plan.points)} points in {folder}")
    return finish(folder, run_here(plan, checked(asked.jobs, 1, "--jobs"), sys.stdout))


def submit(given: list[str], folder: Path, asked: Any, metric: str, goal: str) -> int:
    """As an array."""
    from hpt_megatron.config.cluster import is_of_cluster, read_cluster
    from hpt_megatron.config.problem import counted, errors
    from hpt_megatron.sweeps.plan import planned
    from hpt_megatron.sweeps.queued import as_array

    cluster, problems = read_cluster([text for text in given if is_of_cluster(text)], asked.config_dir)
    if found := errors(problems):
        told = [f"nothing was submitted, for {counted(len(found), 'error')}:", *map(str, found)]
        raise UserError("\n  ".join(told))
    plan = planned([text for text in given if not is_of_cluster(text)], folder, asked.config_dir, metric, goal)
    submission = as_array(
        plan, cluster, Path.cwd(), checked(asked.concurrent, 4, "--concurrent"), job_number(asked.after)
    )
    if asked.dry_run:
        print(submission.text(), end="")
        return 0
    number = submission.submit()
    plan.write()
    print(f"job {number}, an array of {counted(len(plan.points), 'point')}; its files: {submission.folder}")
    print(f"  how far it is     hpt sweep status {folder}")
    print(f"  table and figure  hpt sweep collect {folder}")
    print(f"  end it            scancel {number}")
    return 0


def finish(folder: Path, failed: list[Path]) -> int:
    """The table, and who failed."""
    _write(folder)
    if failed:
        raise HptError(f"{len(failed)} runs failed, the first is {failed[0]}", mend="the same command tries them again")
    return 0


def _write(folder: Path) -> None:
    from hpt_megatron.sweeps.table import NAME, write

    written = write(folder)
    print((folder / f"{NAME}.md").read_text(encoding="utf-8"), end="")
    for path in written:
        print(f"wrote {path}")


def _look(action: str, arguments: list[str]) -> int:
    options = Parser(prog=f"hpt sweep {action}", description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path, metavar="FOLDER", help="of a sweep")
    folder = options.parse_args(arguments).folder

    from hpt_megatron.sweeps.plan import recorded
    from hpt_megatron.sweeps.table import collected, text_of

    if action == "status":
        print(text_of(collected(folder), recorded(folder)), end="")
        return 0
    _write(folder)
    if action == "report":
        from hpt_megatron.cli.report import run as report

        shown = [str(row.folder) for row in collected(folder) if row.step][:PAGE_MOST]
        if not shown:
            raise UserError("no run has made a step yet", where=str(folder), mend="wait for the first one")
        return report([*shown, "--out", str(folder / "report.html")])
    return 0
