"""`hpt report RUN [RUN...]`: what runs came to, as one page; also as tables and as figures for a paper.

RUN is the folder of a run (`trainer.run_dir`), also of one that is still going on. Nothing in it is changed but for the
files of the report itself.

Example:
    $ hpt report runs/tiny-hpt
    $ hpt report runs/hpt runs/grpo --out compared.html --md --png
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.config.problem import one_line
from hpt_megatron.errors import UserError

if TYPE_CHECKING:
    from hpt_megatron.report.overview import Summary

NAME = "report"


def run(arguments: list[str]) -> int:
    """Writes the report of some runs, and prints the headline."""
    options = Parser(prog="hpt report", description=__doc__.splitlines()[0])
    options.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    options.add_argument("--out", type=Path, metavar="FILE", help="the page (report.html in the first run's folder)")
    options.add_argument("--md", action="store_true", help="also the tables, as Markdown beside the page")
    options.add_argument("--png", action="store_true", help="also figures for a paper, in a folder beside the page")
    asked = options.parse_args(arguments)
    if len({folder.resolve() for folder in asked.runs}) < len(asked.runs):
        raise UserError("a run is given twice", where="hpt report", mend="give each run once")

    from hpt_megatron.report.folder import names_of, read
    from hpt_megatron.report.overview import Summary
    from hpt_megatron.report.page import page

    runs = [read(folder, name) for folder, name in zip(asked.runs, names_of(asked.runs), strict=True)]
    now = time.time()
    out = asked.out or asked.runs[0] / f"{NAME}.html"
    summaries = [Summary.of(one, now) for one in runs]
    written = [write(out, page(runs, now))]
    if asked.md:
        from hpt_megatron.report.markdown import markdown

        written.append(write(out.with_suffix(".md"), markdown(summaries)))
    if asked.png:
        from hpt_megatron.report.paper import draw

        written += draw(runs, out.with_name(f"{out.stem}-figures"))
    show(summaries)
    for path in written:
        print(f"wrote {one_line(str(path))}")
    return 0


def write(path: Path, text: str) -> Path:
    """A file of the report, whole or not at all."""
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8", errors="replace")  # half a surrogate pair, in a text of a run
        beside.replace(path)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path), mend="another --out") from error
    return path


def show(summaries: Sequence["Summary"]) -> None:
    """The headline: in words of one run, as a table of several. Colours go where NO_COLOR or a file asks for none."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hpt_megatron.report.headline import told
    from hpt_megatron.report.overview import headline_rows, heads_of

    console = Console(highlight=False, soft_wrap=True)
    for one in summaries:
        console.print(Text(one_line(one.run.name), "bold") + Text(f"  {one.standing}", "not bold"))
        if len(summaries) == 1:
            for line, good in zip(told(one.line), one.line.good, strict=False):
                console.print(Text(f"  {line}", "green" if good else ""))
    if len(summaries) > 1:
        if not console.is_terminal:
            console.width = 200
        grid = Table(box=box.SIMPLE, pad_edge=False)
        for place, head in enumerate(heads_of(summaries)):
            grid.add_column(head, justify="right" if place else "left")
        for row in headline_rows(summaries):
            grid.add_row(*(Text(one_line(cell)) for cell in row))
        console.print(grid)
