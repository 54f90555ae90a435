"""`hpt compare NAME|FILE`: runs methods from the same start over several seeds, and writes one table and one figure.

What is done is not done again, so the same command goes on where it was stopped. `--collect` runs nothing.

Example:
    $ hpt compare tiny-compare --out runs/compared --jobs 2
    $ hpt compare tiny-compare --out runs/compared --methods hpt,grpo --seeds 1,2
"""

import sys
from pathlib import Path

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.errors import HptError, UserError


def run(arguments: list[str]) -> int:
    """Runs a comparison, or the part of it that is asked for."""
    options = Parser(prog="hpt compare", description=__doc__.splitlines()[0])
    options.add_argument("comparison", metavar="NAME|FILE", help="of configs/comparison, or a file of that form")
    options.add_argument("--out", type=Path, metavar="FOLDER", help="where its runs lie (runs/NAME)")
    options.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at work side by side (1)")
    options.add_argument("--seeds", default="", metavar="N,N", help="of these seeds alone")
    options.add_argument("--methods", default="", metavar="NAME,NAME", help="of these methods alone")
    options.add_argument("--collect", action="store_true", help="only the table and the figure, of runs that ended")
    asked = options.parse_args(arguments)
    if asked.jobs < 1:
        raise UserError(f"is {asked.jobs}", where="--jobs", mend="1 or more")
    words = [seed for seed in asked.seeds.split(",") if seed]
    if not all(seed.isdecimal() for seed in words):
        raise UserError("must be whole numbers with commas between", where="--seeds", mend="--seeds 1,2")

    from hpt_megatron.config.comparison import read_comparison

    methods = [name for name in asked.methods.split(",") if name]
    comparison = read_comparison(asked.comparison)
    chosen = comparison.only(methods, [int(seed) for seed in words])
    folder = (asked.out or Path("runs") / comparison.name).absolute()
    failed = []
    if not asked.collect:
        from hpt_megatron.recipes.compare import compare

        failed = compare(chosen, folder, asked.jobs, sys.stdout)
    from hpt_megatron.report.comparison import write

    written = write(comparison, folder)  # also of what earlier commands ran
    print((folder / "comparison.md").read_text(encoding="utf-8"), end="")
    for path in written:
        print(f"wrote {path}")
    if failed:
        raise HptError(f"{len(failed)} runs failed, the first is {failed[0]}", mend="the same command tries them again")
    return 0
