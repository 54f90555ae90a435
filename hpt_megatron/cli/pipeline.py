"""`hpt pipeline NAME|FILE`: stages one after the other, each taking what the ones before it made; then one table.

What is done is not done again, so the same command goes on in the stage where it was stopped.

Example:
    $ hpt pipeline tiny-rlhf --out runs/rlhf
    $ hpt pipeline rlhf --out runs/rlhf model.path=Qwen2.5-VL-3B data.train_files=[train.parquet]
    $ hpt pipeline tiny-rlhf --dry-run
"""

import sys
from pathlib import Path

from hpt_megatron.cli.arguments import Parser


def run(arguments: list[str]) -> int:
    """Runs a pipeline."""
    options = Parser(prog="hpt pipeline", description=__doc__.splitlines()[0])
    options.add_argument("pipeline", metavar="NAME|FILE", help="of configs/pipeline, or a file of that form")
    options.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of every stage, the last word")
    options.add_argument("--out", type=Path, metavar="FOLDER", help="where its stages lie (runs/NAME)")
    options.add_argument("--dry-run", action="store_true", help="check every stage and show its command")
    asked = options.parse_intermixed_args(arguments)

    from hpt_megatron.config.pipeline import read_pipeline

    pipeline = read_pipeline(asked.pipeline)
    folder = (asked.out or Path("runs") / pipeline.name).absolute()
    turns = pipeline.turns(folder, asked.overrides)
    if asked.dry_run:
        pipeline.check(turns)
        for turn in turns:
            print(f"hpt train {' '.join([*turn.given, *turn.handed])}")
        return 0

    from hpt_megatron.recipes.pipeline import follow
    from hpt_megatron.report.pipeline import write

    try:
        follow(pipeline, turns, sys.stdout)
    finally:
        if any((turn.folder / "metrics.jsonl").is_file() for turn in turns):
            written = write([turn.folder.name for turn in turns], folder)
            print(written[1].read_text(encoding="utf-8"), end="")
            print(f"wrote {written[0]}\nwrote {written[1]}")
    return 0
