"""What `launch/train_grpo.py` does with its options: say what the run is, then train it or measure it.

Exit codes are those of `hpt`: 0 done, 2 the user's mistake, 1 ours, and what a run that was stopped answers.

Example: `main(["--quick-test"])`
"""

import sys
from argparse import Namespace
from pathlib import Path

from hpt_megatron.config.problem import one_line
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.grpo.config import GRPOConfig
from hpt_megatron.grpo.data import origin_of
from hpt_megatron.grpo.mapping import mapped, run_of, table
from hpt_megatron.grpo.models import model_for
from hpt_megatron.grpo.options import PROG, config_of, is_own_folder, parse, preset_of

MEND = "see docs/grpo.md"


def main(arguments: list[str]) -> int:
    """Runs the command; answers the exit code."""
    try:
        asked = parse(arguments)
        return act(asked, config_of(asked))
    except KeyboardInterrupt:
        sys.stderr.write(f"{PROG}: interrupted\n")
        return 130
    except HptError as error:
        sys.stderr.write(f"{PROG}: {error}\n")
        return error.exit_code
    except Exception as error:
        sys.stderr.write(f"{PROG}: {type(error).__name__}: {one_line(str(error))} (our mistake)\n")
        return 1


def act(asked: Namespace, config: GRPOConfig) -> int:
    """What the options ask for."""
    preset = preset_of(asked)
    if preset:
        say(f"--{'quick-test' if asked.quick_test else 'production'} stands for")
        for name, value in preset.items():
            now = getattr(config, name)
            say(f"  {name} = {value}" + ("" if now == value else f", given here as {now}"))
    if asked.dry_run:
        return dry_run(config)
    check_there(config)
    from hpt_megatron.grpo.trainer import FINAL, GRPOTrainer, free  # the engines, and with them all that takes time

    if asked.quick_test and not is_own_folder(asked) and config.resume_from_checkpoint is None:
        config.output_dir = str(free(Path(config.output_dir)))
    trainer = GRPOTrainer(config)
    trainer.load_model()
    if asked.eval_only:
        show(trainer.evaluate())
        return 0
    if trainer.train() or not (trainer.folder / FINAL).exists():
        trainer.save_model()
    return 0


def check_there(config: GRPOConfig) -> None:
    """Weights and rows are here, or one line says what to provide; both are told at once."""
    if lacks := lacking(config):
        what = f"{' and '.join(what for what, _ in lacks)} are not here, and nothing is downloaded"
        raise UserError(what, mend=f"give {' and '.join(file for _, file in lacks)}")


def lacking(config: GRPOConfig) -> list[tuple[str, str]]:
    """What is not on this machine, and the option that names it."""
    model, origin = model_for(config), origin_of(config)
    found = [(f"the weights of {model.name}", model.missing)] if model.missing else []
    if isinstance(origin, str):
        found.append((f"the rows of {config.dataset_name}", origin))
    return found


def dry_run(config: GRPOConfig) -> int:
    """Says what the run would be."""
    model = model_for(config)
    keys = mapped(config, model)
    run_of(keys)  # which refuses what cannot be run
    for line in [*model.notes, "the run:", *table(keys)]:
        say(line)
    for what, file in lacking(config):
        say(f"{what} are not here: give {file}")
    return 0


def show(told: dict[str, object]) -> None:
    """The figures of an evaluation, a line for each source."""
    figures = told["figures"]
    assert isinstance(figures, dict)
    for source, each in figures.items():
        words = ", ".join(f"{name} {figure['value']:.3f}" for name, figure in each.items())
        say(f"{one_line(source) or 'all'}: {words}")


def say(line: str) -> None:
    """One line for whoever watches."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
