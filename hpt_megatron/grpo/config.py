"""What a GRPO run is, under the names that its users know; and as a file of JSON or YAML.

Decision: the object may be edited (`config.learning_rate = 1e-6`), as its users do, so it is checked at every
assignment: the type, and what no value may be. What only a whole run can tell is checked by the run's own rules.

Invariants
    1. No field holds a value of another type than it says; a wrong name or value is one line that names the field.
    2. A file that was saved is read back as an equal configuration.
    3. An unknown key of a file is refused with the nearest known one.

Example:
    >>> config = create_default_config("llama-3.1-8b", "ultrafeedback")
    >>> config.learning_rate = 1e-6
    >>> config.learning_rate, config.group_size
    (1e-06, 4)
"""

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from hpt_megatron.config.presets import PRESETS
from hpt_megatron.config.problem import nearest, one_line
from hpt_megatron.errors import UserError

MODELS = ("llama-3.1-8b", "llama-3.1-70b", "gemma-2-9b", "qwen2.5-7b")
REWARD_TYPES = {"single": "single", "multi": "multi", "systematic": "multi"}
"""`systematic` is the word of an older file, in which the shares of components have names: so it means `multi`."""
OTHER_NAMES = {
    "num_generations": "group_size",
    "reward_function": "reward_function_type",
    "reward_config": "reward_config_file",
    "dataset": "dataset_name",
    "model": "model_name",
}
"""Keys of files, as TRL and the command line call them."""
AT_LEAST_ONE = (
    *("max_seq_length", "max_prompt_length", "num_train_epochs", "per_device_train_batch_size"),
    *("per_device_eval_batch_size", "gradient_accumulation_steps", "max_samples", "group_size", "eval_samples"),
)
NOT_NEGATIVE = ("beta", "gamma", "max_generation_samples", "eval_steps", "save_steps", "seed")


@dataclass
class GRPOConfig:
    """See the module; docs/grpo.md says what each field becomes."""

    model_name: str = "llama-3.1-8b"
    model_path: str | None = None  # the folder of its weights
    dataset_name: str = "ultrafeedback"
    data_file: str | None = None  # the file of the set, downloaded
    custom_data: str | None = None  # a file in one of our forms, in place of the set
    max_seq_length: int = 2048  # tokens of prompt and response
    max_prompt_length: int | None = None  # of the prompt; None: half
    learning_rate: float = 5e-7
    num_train_epochs: int = 3
    per_device_train_batch_size: int = 2  # responses
    per_device_eval_batch_size: int = 2
    gradient_accumulation_steps: int = 4
    max_samples: int | None = None  # rows that are trained on; None: all
    output_dir: str = "./grpo_outputs"
    beta: float = 0.1  # of the KL to the reference; 0: no reference
    gamma: float = 1.0
    group_size: int = 4  # responses to a prompt
    reward_function_type: str = "single"
    reward_config_name: str = "balanced"
    reward_config_file: str | None = None
    load_in_4bit: bool = False
    streaming: bool = False  # rows behind the last one that is needed are not looked at
    wandb_project: str | None = None  # None: W&B is not used
    resume_from_checkpoint: str | None = None
    enable_generation_logging: bool = True
    generation_log_dir: str | None = None  # None: output_dir/generation_logs
    max_generation_samples: int = 5
    eval_samples: int = 64  # prompts of a validation, at most
    eval_steps: int = 10  # steps between validations; 0: never
    save_steps: int = 50  # steps between checkpoints; 0: at the end alone
    temperature: float = 1.0
    deterministic: bool = False  # the same bits every time
    seed: int = 1
    overrides: list[str] = field(default_factory=list)  # `key=value` of the run itself

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, checked(name, value))

    @property
    def rewards(self) -> str:
        """`single` or `multi`."""
        return REWARD_TYPES[self.reward_function_type]


@cache
def kinds() -> dict[str, Any]:
    """The type of every field."""
    hints = get_type_hints(GRPOConfig)
    return {each.name: hints[each.name] for each in fields(GRPOConfig)}


def checked(name: str, value: Any) -> Any:
    """The value as the field holds it; raises where the field cannot."""
    if name not in kinds():
        near = nearest(name, kinds())
        mend = f"did you mean {near}?" if near else f"one of {', '.join(kinds())}"
        raise UserError("no such key", where=one_line(name), mend=mend)
    value = _typed(name, kinds()[name], value)
    if value is None:
        return None
    if name in AT_LEAST_ONE and value < 1:
        raise UserError(f"{value}: 1 or more is needed", where=name)
    if name == "group_size" and value < 2:
        raise UserError("1: a response is compared with the others of its group", where=name, mend="2 or more")
    if name in NOT_NEGATIVE and not 0 <= value < float("inf"):
        raise UserError(f"{value}: 0 or more is needed", where=name)
    if name in ("learning_rate", "temperature") and not 0 < value < float("inf"):
        raise UserError(f"{value}: a number above 0 is needed", where=name)
    if name == "reward_function_type" and value not in REWARD_TYPES:
        raise UserError(f"no such kind: {one_line(value)}", where=name, mend=f"one of {', '.join(REWARD_TYPES)}")
    if name == "reward_config_name" and value not in PRESETS:
        raise UserError(f"no such preset: {one_line(value)}", where=name, mend=f"one of {', '.join(PRESETS)}")
    return value


def _typed(name: str, kind: Any, value: Any) -> Any:
    optional = get_origin(kind) in (Union, types.UnionType)
    if optional:
        if value is None:
            return None
        kind = next(each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is list:
        if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
            return list(value)
        raise UserError(f"{value!r} is no list of texts", where=name)
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and isinstance(value, Path):
        return str(value)
    if type(value) is not kind:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        raise UserError(f"{value!r} is not {words[kind]}", where=name)
    return value


def of_values(values: Mapping[str, Any]) -> GRPOConfig:
    """A configuration from names and values, other names of theirs included."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = OTHER_NAMES.get(name, name)
        if key in found:
            raise UserError("is given twice", where=one_line(key), mend=f"one of {one_line(name)} and {key}")
        found[key] = checked(key, value)
    return GRPOConfig(**found)


def create_default_config(model: str = "llama-3.1-8b", dataset: str = "ultrafeedback") -> GRPOConfig:
    """The defaults for a model and a set, both by the names of the command line."""
    config = GRPOConfig(model_name=model, dataset_name=dataset)
    if "70b" in model.lower():  # 16 devices or more, and one response at a time on each
        config.per_device_train_batch_size, config.gradient_accumulation_steps = 1, 8
    return config


def save_config_to_file(config: GRPOConfig, path: str | Path) -> None:
    """JSON, or YAML where the name ends with it."""
    values, file = asdict(config), Path(path)
    text = yaml.safe_dump(values, sort_keys=False) if _is_yaml(file) else json.dumps(values, indent=2) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=str(path)) from error


def read_values(path: str | Path) -> dict[str, Any]:
    """What a file says, by the names of fields; the values are checked, what is left out is not there."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        told = yaml.safe_load(text) if _is_yaml(file) else json.loads(text)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        what = f"is not {'YAML' if _is_yaml(file) else 'JSON'}: {' '.join(str(error).split())[:200]}"
        raise UserError(what, where=str(path)) from error
    if not isinstance(told, dict):
        raise UserError("holds no keys with values", where=str(path), mend='{"model_name": "llama-3.1-8b", ...}')
    named = {str(name): _number(str(name), value) for name, value in told.items()}
    try:
        config = of_values(named)
    except UserError as error:
        raise UserError(error.what, where=f"{path}: {error.where}", mend=error.mend) from None
    keys = [OTHER_NAMES.get(name, name) for name in named]
    return {key: getattr(config, key) for key in keys}


def load_config_from_file(path: str | Path) -> GRPOConfig:
    """The configuration that a file holds; what it leaves out is the default."""
    return GRPOConfig(**read_values(path))


def _number(name: str, value: Any) -> Any:
    """YAML reads `5e-7` as a text."""
    if isinstance(value, str) and kinds().get(OTHER_NAMES.get(name, name)) is float:
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _is_yaml(file: Path) -> bool:
    return file.suffix in (".yaml", ".yml")
