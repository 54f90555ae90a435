"""`hpt train [OVERRIDE...]`: trains, from data to checkpoints, and goes on where an earlier attempt stopped.

Everything of the run lies in `trainer.run_dir`. With nothing given it is the embedded default: the tiny model, real
Megatron, vLLM and Ray on two cores.

Example:
    $ hpt train
    $ hpt train experiment=hpt-7b model.path=... data.train_files=[train.parquet]
"""

import sys
from collections.abc import Sequence

from hpt_megatron.cli.arguments import Parser


def run(arguments: list[str], verb: str = "train", told: str = __doc__, given: Sequence[str] = ()) -> int:
    """Trains one run, with what another verb gives."""
    options = Parser(prog=f"hpt {verb}", description=told.splitlines()[0])
    options.takes_run()
    options.add_argument("--profile-memory", action="store_true", help="trainer.profile_memory=true: RUN/memory.jsonl")
    asked = options.read(arguments)
    asked.overrides[:0] = given
    if asked.profile_memory:
        asked.overrides.append("trainer.profile_memory=true")

    from hpt_megatron.config.load import load_run

    chosen = load_run(asked.overrides, asked.config_dir)

    from hpt_megatron.recipes.train import train

    train(chosen, sys.stdout)
    return 0
