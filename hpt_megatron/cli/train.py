"""`hpt train [OVERRIDE...]`: trains, from data to checkpoints, and goes on where an earlier attempt stopped.

Everything of the run lies in `trainer.run_dir`. With nothing given it is the embedded default: the tiny model, real
Megatron, vLLM and Ray on two cores.

Example:
    $ hpt train
    $ hpt train --multirun algorithm.switch_gate=0,1,2 --out runs/gates --jobs 2
    $ hpt train --recorded runs/a/run.json
    $ hpt train experiment=hpt-7b model.path=... data.train_files=[train.parquet]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.cli.sweep import here, takes_jobs, takes_out
from hpt_megatron.config.sweep import METRIC
from hpt_megatron.errors import UserError


def run(arguments: list[str], verb: str = "train", told: str = __doc__, given: Sequence[str] = ()) -> int:
    """Trains one run, with what another verb gives."""
    options = Parser(prog=f"hpt {verb}", description=told.splitlines()[0])
    options.takes_run()
    options.add_argument("--profile-memory", action="store_true", help="trainer.profile_memory=true: RUN/memory.jsonl")
    recorded = "a run as it was written down (RUN/run.json), in place of overrides"
    options.add_argument("--recorded", type=Path, metavar="FILE", help=recorded)
    options.add_argument("--multirun", "-m", action="store_true", help="every point of a sweep: a=1,2 b=range(0,3)")
    takes_out(options)
    takes_jobs(options)
    asked = options.read(arguments)
    asked.overrides[:0] = given
    if asked.profile_memory:
        asked.overrides.append("trainer.profile_memory=true")

    if asked.multirun:
        return here(asked.overrides, (asked.out or Path("multirun")).absolute(), asked, METRIC, "max")
    if asked.out is not None or asked.jobs is not None:
        raise UserError("are of a sweep", where="--out and --jobs", mend="add --multirun, or trainer.run_dir=FOLDER")
    if asked.recorded is not None:
        if asked.overrides:
            raise UserError("is a whole run, and overrides would change it", where="--recorded", mend="one of the two")
        from hpt_megatron.config.recorded import recorded_run

        chosen = recorded_run(asked.recorded)
    else:
        from hpt_megatron.config.load import load_run

        chosen = load_run(asked.overrides, asked.config_dir)

    from hpt_megatron.recipes.train import train

    train(chosen, sys.stdout)
    return 0
