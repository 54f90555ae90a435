"""`hpt replay RUN --step N`: works a recorded step out again, in one process, and says whether it agrees.

Routing, rows, credit and weights exactly; the loss within a tolerance, where the weights before the step are there.
A run records steps with `trainer.record_freq`. Exit code 0 where all that was worked out agrees, 1 where something
differs (its first row and number are named), 2 where there is nothing to work out.

Example:
    $ hpt train trainer.record_freq=10 trainer.save_freq=10 trainer.run_dir=runs/a
    $ hpt replay runs/a --step 11
"""

import json
import logging
import os
import warnings
from dataclasses import asdict
from pathlib import Path

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.cli.parity import positive, tolerance
from hpt_megatron.config.problem import one_line

WORDS = {True: "agrees", False: "DIFFERS", None: "-"}


def parser() -> Parser:
    """The options of the verb."""
    options = Parser(prog="hpt replay", description=(__doc__ or "").splitlines()[0])
    options.add_argument("folder", type=Path, metavar="RUN", help="the folder of a run")
    options.add_argument("--step", type=positive, required=True, metavar="N", help="a step that was recorded")
    options.add_argument("--no-loss", action="store_true", help="leave out the loss, for which the model is loaded")
    options.add_argument(
        "--tolerance", type=tolerance, metavar="X", help="of the loss, relative to max(1, it) (fp32: 1e-5, bf16: 2e-2)"
    )
    options.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def run(arguments: list[str]) -> int:
    """Works it out, prints, and says whether it agrees."""
    asked = parser().parse_args(arguments)
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # megatron-core's
    warnings.simplefilter("ignore")
    from hpt_megatron.recipes.replay import replay

    logging.disable(logging.WARNING)  # one process instead of several is the point, and what differs is said below
    try:
        lines = replay(asked.folder, asked.step, asked.tolerance, not asked.no_loss)
    finally:
        logging.disable(logging.NOTSET)
    differs = any(line.agrees is False for line in lines)
    if asked.json:
        told = {"run": str(asked.folder), "step": asked.step, "agrees": not differs}
        print(json.dumps({**told, "parts": [asdict(line) for line in lines]}, indent=2))
    else:
        print(f"step {asked.step} of {asked.folder}")
        for line in lines:
            print(f"  {line.part:<9}{WORDS[line.agrees]:<9}{one_line(line.told)}")
    return 1 if differs else 0
