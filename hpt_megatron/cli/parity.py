"""`hpt parity HF_DIR`: runs random text and images through transformers and through the trainer's model, and compares.

Each side computes logits, log-probs, a loss of every kind and all gradients, in float32. Exit code 1 where a difference
is beyond the tolerance. It takes any folder of the families, so it proves a checkpoint and a layout before devices are
asked for; on a host without them the processes share its cores.

Example:
    $ hpt tiny runs/tiny-model
    $ hpt parity runs/tiny-model --layout tp=2,pp=2
"""

import argparse
import json
import os
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.cli.tiny import seed

if TYPE_CHECKING:
    from hpt_megatron.parity.trial import Trial


def parser() -> Parser:
    """The options of the verb."""
    options = Parser(prog="hpt parity", description=__doc__.splitlines()[0])
    options.add_argument("folder", metavar="HF_DIR", help="a checkpoint in the Hugging Face layout")
    options.add_argument(
        "--layout", default="", metavar="SIZES", help="such as tp=2,pp=2; also vpp, cp, dp (default: 1)"
    )
    options.add_argument("--seed", type=seed, default=0, metavar="N", help="what the rows are drawn from (default: 0)")
    options.add_argument("--rows", type=positive, default=7, metavar="N", help="how many rows (default: 7)")
    options.add_argument(
        "--tolerance", type=tolerance, default=1e-5, metavar="X", help="largest relative difference (default: 1e-5)"
    )
    options.add_argument("--timeout", type=positive, default=600, metavar="S", help="seconds for ours (default: 600)")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 is needed, not {text!r}")
    return int(text)


def tolerance(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is needed, not {text!r}")
    return number


def run(arguments: list[str]) -> int:
    """Compares, prints, and says whether both sides agree."""
    given = parser().parse_args(arguments)
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # megatron-core's, once per process
    warnings.simplefilter("ignore")
    from hpt_megatron.parity.trial import compare_folder, sizes_of

    sizes = sizes_of(given.layout)
    trial = compare_folder(given.folder, sizes, given.seed, given.rows, given.timeout)
    beyond = trial.beyond(given.tolerance)
    if given.json:
        told = {"folder": given.folder, "layout": sizes, "seed": given.seed, "tolerance": given.tolerance}
        print(json.dumps({**told, **asdict(trial), "equal": not beyond}, indent=2))
    else:
        show(given, sizes, trial)
    return 1 if beyond else 0


def show(given: argparse.Namespace, sizes: dict[str, int], trial: "Trial") -> None:
    """Prints the table."""
    layout = " x ".join(f"{key} {size}" for key, size in sizes.items() if size > 1) or "one process"
    print(f"model   {given.folder}: {trial.parameters:,} parameters")
    print(f"layout  {layout}: {trial.processes} processes, {trial.micro_batches} micro-batches on each replica")
    print(f"rows    {trial.rows} of {trial.tokens} tokens with {trial.images} images, seed {given.seed}, float32\n")
    print(f"{'largest difference':<29}{'absolute':>10}{'relative':>10}  in")
    for one in trial.differences:
        mark = "" if one.relative <= given.tolerance else "  <- beyond"
        print(f"{one.what:<29}{one.absolute:>10.1e}{one.relative:>10.1e}  {one.where}{mark}")
    beyond = trial.beyond(given.tolerance)
    verdict = f"NOT equal: {len(beyond)} of {len(trial.differences)} lines are beyond" if beyond else "equal within"
    print(f"\n{verdict} {given.tolerance:g}")
