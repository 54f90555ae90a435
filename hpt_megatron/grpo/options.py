"""The command line of `launch/train_grpo.py`, and the configuration that it makes.

What is given counts in this order, the last one most: defaults, the file of `--config`, a preset, other options.

Example:
    >>> asked = parse(["--quick-test", "--group-size", "8"])
    >>> config = config_of(asked)
    >>> config.group_size, config.model_name
    (8, 'tiny')
"""

import argparse
from typing import Any, NoReturn

from hpt_megatron.errors import UserError
from hpt_megatron.grpo.config import MODELS, GRPOConfig, read_values
from hpt_megatron.grpo.data import DATASETS
from hpt_megatron.grpo.presets import PRODUCTION, QUICK_TEST

PROG = "train_grpo.py"
QUICK_OUT = "./grpo_outputs/quick_test"


class Options(argparse.ArgumentParser):
    """A wrong option is one line, like any other mistake of the user."""

    def error(self, message: str) -> NoReturn:
        """One line, exit code 2."""
        raise UserError(message, where=self.prog, mend=f"see `{self.prog} --help`")


def options() -> Options:
    """Every option; those that set a field of the configuration carry its name."""
    parser = Options(
        prog=PROG, allow_abbrev=False, description="GRPO on Megatron workers; docs/grpo.md has an example of each."
    )
    default = GRPOConfig()
    add = parser.add_argument
    add("--model", dest="model_name", choices=MODELS, help=f"default: {default.model_name}")
    add("--model-path", metavar="FOLDER", help="its weights in the hub's format; nothing is downloaded")
    add("--dataset", dest="dataset_name", choices=tuple(DATASETS), help=f"default: {default.dataset_name}")
    add("--data-file", metavar="FILE", help="the downloaded file of --dataset: .parquet, .jsonl or .json")
    add("--custom-data", metavar="PATH", help="rows of your own in place of a set, such as JSON lines with a prompt")
    add("--config", metavar="PATH", help="a file of JSON or YAML; options here come before what it says")
    preset = parser.add_mutually_exclusive_group()
    preset.add_argument("--quick-test", action="store_true", help="a tiny model on an embedded task, some steps")
    preset.add_argument("--production", action="store_true", help="long responses, large batches, generation logs")
    add("--max-samples", type=whole, metavar="N", help="rows to train on (default: all)")
    add("--epochs", dest="num_train_epochs", type=whole, metavar="N", help=f"default: {default.num_train_epochs}")
    add("--learning-rate", type=positive, metavar="LR", help=f"default: {default.learning_rate:g}")
    size = f"responses on a device at a time (default: {default.per_device_train_batch_size}); see docs/grpo.md"
    add("--batch-size", dest="per_device_train_batch_size", type=whole, metavar="N", help=size)
    add("--group-size", type=whole, metavar="N", help=f"responses to a prompt (default: {default.group_size})")
    add("--output-dir", metavar="PATH", help=f"default: {default.output_dir}, of a quick test {QUICK_OUT}")
    kinds = f"one number for a response, or one for each component and their sum (default: {default.rewards})"
    add("--reward-function", dest="reward_function_type", choices=("single", "multi"), help=kinds)
    add("--reward-config", dest="reward_config_file", metavar="PATH", help="weights and settings of the reward, JSON")
    wandb = parser.add_mutually_exclusive_group()
    wandb.add_argument("--wandb-project", metavar="NAME", help="log to Weights & Biases; without it nothing is")
    wandb.add_argument("--no-wandb", action="store_true", help="not to W&B, whatever --config says")
    add("--eval-only", action="store_true", help="measure the model, or a checkpoint, and train nothing")
    add("--resume-from-checkpoint", metavar="PATH", help="OUTPUT_DIR/checkpoints/step_N, or OUTPUT_DIR for its newest")
    _generation(parser, default)
    add("--dry-run", action="store_true", help="print what the run would be, and start nothing")
    add("--set", dest="overrides", action="append", metavar="KEY=VALUE", help="a key of the run itself; may repeat")
    return parser


def _generation(parser: Options, default: GRPOConfig) -> None:
    logging = parser.add_mutually_exclusive_group()
    name = "enable_generation_logging"
    logging.add_argument("--enable-generation-logging", dest=name, action="store_const", const=True, help="the default")
    logging.add_argument("--disable-generation-logging", dest=name, action="store_const", const=False)
    place = "default: OUTPUT_DIR/generation_logs"
    parser.add_argument("--generation-log-dir", metavar="PATH", help=place)
    most = f"logged at a validation (default: {default.max_generation_samples})"
    parser.add_argument("--max-generation-samples", type=natural, metavar="N", help=most)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options that were given."""
    return options().parse_args(arguments)


def preset_of(asked: argparse.Namespace) -> dict[str, Any]:
    """What a preset expands to; nothing where none is asked for."""
    return QUICK_TEST if asked.quick_test else PRODUCTION if asked.production else {}


def config_of(asked: argparse.Namespace) -> GRPOConfig:
    """The configuration that a command line makes."""
    values = read_values(asked.config) if asked.config is not None else {}
    values |= preset_of(asked)
    if asked.quick_test and not is_own_folder(asked):
        values["output_dir"] = QUICK_OUT
    given = {name: value for name, value in vars(asked).items() if value is not None and hasattr(GRPOConfig, name)}
    if asked.overrides:
        given["overrides"] = [*values.get("overrides", []), *asked.overrides]
    if asked.no_wandb:
        given["wandb_project"] = None
    if "custom_data" not in given and {"dataset_name", "data_file"} & given.keys():
        values.pop("custom_data", None)  # a set that is named here comes before a file that --config names
    return GRPOConfig(**{**values, **given})


def whole(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 10**9):
        raise argparse.ArgumentTypeError(f"a whole number from 1 is needed, not {text[:40]!r}")
    return int(text)


def natural(text: str) -> int:
    """A whole number from 0."""
    return 0 if text == "0" else whole(text)


def positive(text: str) -> float:
    """A number above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e3:
        raise argparse.ArgumentTypeError(f"a number above 0 is needed, not {text[:40]!r}")
    return found


def is_own_folder(asked: argparse.Namespace) -> bool:
    """Whether the user named where results go."""
    if asked.config is not None and "output_dir" in read_values(asked.config):
        return True
    return asked.output_dir is not None
