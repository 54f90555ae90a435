"""From the name of a model to a preset of ours and the folder of its weights.

Names are those of the command line, hub ids and what is around them (`unsloth/Meta-Llama-3.1-8B-bnb-4bit`), `tiny`, or
a folder in the hub's format. Nothing is downloaded: a preset without a folder says which one to provide.

Example:
    >>> preset_of("unsloth/llama-3.1-8b-bnb-4bit"), preset_of("Qwen/Qwen2.5-7B-Instruct")
    ('llama-3.1-8b', 'qwen2.5-7b')
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from hpt_megatron.config.checkpoint import model_of
from hpt_megatron.config.files import groups
from hpt_megatron.config.geometry import parameters
from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.problem import nearest, one_line
from hpt_megatron.errors import UserError
from hpt_megatron.grpo.config import MODELS, GRPOConfig

TINY = "tiny"
NO_BUILDER = ("gemma", "mistral", "mixtral", "phi", "qwen3", "llama-3.2", "llama-2")
"""Families that have a name here, or are often asked for, and that the trainer does not build."""
HUB = {
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "llama-3.1-70b": "meta-llama/Llama-3.1-70B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
}
EXPERIMENTS = {"llama-3.1-70b": "grpo-70b", "qwen2.5-72b": "grpo-70b", "qwen2.5-vl-72b": "grpo-70b", TINY: "tiny-grpo"}
USUAL = "grpo-8b"
BASES = {"qwen2_5_vl": "qwen2.5-vl-7b", "qwen2_5": "qwen2.5-7b", "llama3_1": "llama-3.1-8b"}
SMALL = 100e6
"""Parameters up to which a folder's model is trained as the tiny one is, in one process of this host."""
FOUR_BIT = re.compile(r"(-unsloth)?-bnb-4bit|-4bit|-awq|-gptq(-int4)?")
ENDINGS = re.compile(r"-(instruct|it|base|chat)\b")


@dataclass(frozen=True)
class Model:
    """What a run is told of its model; `folder` is None where it is made on the spot, or missing."""

    name: str
    experiment: str
    overrides: tuple[str, ...]
    folder: Path | None
    missing: str = ""
    notes: tuple[str, ...] = ()


def preset_of(name: str) -> str:
    """The preset that a name stands for; the name itself, in its plain form, where there is none."""
    plain = FOUR_BIT.sub("", name.rpartition("/")[2].lower())
    return ENDINGS.sub("", plain).removeprefix("meta-")


def model_for(config: GRPOConfig) -> Model:
    """The model of a configuration, or one line that says why there is none."""
    if config.load_in_4bit:
        mend = "load_in_4bit=false: the whole weights, spread over devices"
        raise UserError("4-bit weights are not trained on Megatron", where="load_in_4bit", mend=mend)
    name, path = config.model_name, config.model_path
    if Path(name, "config.json").is_file():
        return _of_folder(Path(path or name))
    preset = preset_of(name)
    if preset.startswith(NO_BUILDER):
        mend = f"{', '.join(each for each in MODELS if not each.startswith(NO_BUILDER))}, or a Qwen2.5-VL folder"
        raise UserError("supported by config only, no Megatron builder", where=f"--model {one_line(name)}", mend=mend)
    known = groups()["model"]
    if preset not in known:
        mend = nearest(preset, known) or f"{', '.join(known)}, or the folder of a checkpoint"
        raise UserError(f"no such model, and no folder: {one_line(name)}", where="--model", mend=mend)
    notes = []
    if FOUR_BIT.search(name.lower()):
        notes.append(f"{name}: 4-bit weights are not trained on Megatron; {preset} is trained from its whole weights")
    return _of_preset(preset, path, tuple(notes))


def _of_preset(preset: str, path: str | None, notes: tuple[str, ...]) -> Model:
    given, missing = [f"model={preset}"], ""
    if path is not None:
        folder = Path(path)
        for file in ("config.json", "tokenizer.json"):
            if not (folder / file).is_file():
                mend = f"the folder of {HUB.get(preset, 'a checkpoint')} in the hub's format"
                raise UserError(f"holds no {file}", where=f"--model-path {one_line(path)}", mend=mend)
        given.append(f"model.path={json.dumps(path)}")
    elif preset != TINY:
        of = HUB.get(preset, preset)
        missing = f"--model-path FOLDER with {of} (config.json, tokenizer.json, *.safetensors)"
    experiment = EXPERIMENTS.get(preset, USUAL)
    return Model(preset, experiment, tuple(given), None if path is None else Path(path), missing, notes)


def _of_folder(folder: Path) -> Model:
    model = model_of(folder)
    small = parameters(model) <= SMALL
    experiment = EXPERIMENTS[TINY] if small else USUAL
    return Model(str(folder), experiment, shape_overrides(model), folder)


def shape_overrides(model: ModelConfig) -> tuple[str, ...]:
    """Every key of a model's shape, over the preset of its family."""
    given = [f"model={BASES[model.family]}"]
    for key, value in asdict(model).items():
        if isinstance(value, dict):
            given += [f"model.{key}.{inner}={json.dumps(each)}" for inner, each in value.items()]
        else:
            given.append(f"model.{key}={json.dumps(value)}")
    return tuple(given)
