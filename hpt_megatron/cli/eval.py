"""`hpt eval [OVERRIDE...]`: avg@n and pass@k of a model at the prompts of `data.val_files`, by data source.

The model is `model.path`, a folder in the hub's format, or `--checkpoint`, what a run saved. Responses are sampled by
the engine, agent and rewards of the run with `rollout.n_val`, `val_temperature` and `val_top_p`; nothing is trained.

Example:
    $ hpt eval experiment=hpt-7b model.path=... rollout.n_val=16 rollout.val_temperature=0.6 --k 1,4,16
    $ hpt eval --checkpoint runs/tiny-hpt/checkpoints/step_60 --out runs/tiny-hpt/eval_60
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.config.problem import one_line
from hpt_megatron.errors import HptError


def parser() -> Parser:
    """The options of the verb."""
    options = Parser(prog="hpt eval", description=(__doc__ or "").splitlines()[0])
    options.takes_run()
    options.add_argument(
        "--checkpoint", type=Path, metavar="CKPT", help="RUN/checkpoints/step_N; exported to OUT/model"
    )
    options.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: trainer.run_dir/eval)")
    options.add_argument(
        "--k", type=numbers, default=(), metavar="K,K", help="of pass@k (default: 1, 2, 4, ..., n_val)"
    )
    options.add_argument("--json", action="store_true", help="print what eval.json holds")
    return options


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from 1, with commas between."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() and 0 < int(part) < 10**6 for part in parts):
        raise argparse.ArgumentTypeError(f"whole numbers from 1 are needed, such as 1,4,16, not {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def run(arguments: list[str]) -> int:
    """Measures, writes and prints."""
    asked = parser().read(arguments)

    from hpt_megatron.config.load import load_run

    chosen = load_run(asked.overrides, asked.config_dir)
    out = asked.out or Path(chosen.trainer.run_dir) / "eval"

    from hpt_megatron.recipes.evaluate import check_room, evaluate, exported

    check_room(out)
    model: Path | None = None
    if asked.checkpoint is not None:
        model = exported(asked.checkpoint, out)
        chosen = load_run([*asked.overrides, f"model.path={json.dumps(str(model))}"], asked.config_dir)
    try:
        told = evaluate(chosen, out, asked.k, sys.stderr if asked.json else sys.stdout)
    except HptError:
        if model is not None:  # made for nothing: the next try makes it again
            shutil.rmtree(model)
        raise
    if asked.json:
        print(json.dumps(told, indent=2))
    else:
        show(told, out)
    return 0


def show(told: dict[str, Any], out: Path) -> None:
    """Prints the table: a figure and its interval in each cell."""
    names = list(dict.fromkeys(name for each in told["figures"].values() for name in each))
    width = max(12, *(len(one_line(source)) + 2 for source in told["figures"]))
    print(f"\n{'data source':<{width}}{'prompts':>8}" + "".join(f"{name:>20}" for name in names))
    for source, each in told["figures"].items():
        cells = "".join(f"{cell(each.get(name)):>20}" for name in names)
        print(f"{one_line(source):<{width}}{each['mean_score']['prompts']:>8}{cells}")
    print(f"\nin brackets: 95 % over prompts; {told['responses']:,} responses in {told['seconds']:.1f} s", end="")
    print(f", {told['not_scored']:,} more were not scored" if told["not_scored"] else "")
    print(f"wrote {out / 'eval.json'} and {out / 'rollouts'}")


def cell(figure: dict[str, float] | None) -> str:
    """A figure with its interval.

    >>> cell({"value": 0.5, "low": 0.25, "high": 0.75})
    '0.500 [0.250 0.750]'
    """
    return "-" if figure is None else f"{figure['value']:.3f} [{figure['low']:.3f} {figure['high']:.3f}]"
