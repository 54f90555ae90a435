"""From a `GRPOConfig` to the keys of a run, each with what it came from.

The responses of a step are `per_device_train_batch_size x gradient_accumulation_steps x data-parallel size`; with
`group_size` responses to a prompt that is so many prompts, and one optimizer step.

Invariants
    1. Every field becomes keys, or a line that says why it does not.
    2. A key that `overrides` names is set by it alone.

Example:
    >>> from hpt_megatron.grpo.models import model_for
    >>> config = GRPOConfig(model_name="tiny", group_size=2)
    >>> keys = mapped(config, model_for(config))
    >>> keys["rollout.n"].text, keys["data.train_batch_size"].text
    ('rollout.n=2', 'data.train_batch_size=4')
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.config.load import load, load_run
from hpt_megatron.config.run import RunConfig
from hpt_megatron.driver.loop.checkpoints import MANIFEST, Checkpoints
from hpt_megatron.driver.loop.run import CHECKPOINTS
from hpt_megatron.errors import UserError
from hpt_megatron.grpo.config import GRPOConfig
from hpt_megatron.grpo.data import GRPODataset, write_prompts
from hpt_megatron.grpo.models import Model
from hpt_megatron.grpo.reward import choose, write_reward

DATA = "data"
ALWAYS = ("algorithm=grpo", "algorithm.grpo_use_std=true", "algorithm.entropy_coeff=0.0")
"""GRPO as its paper and TRL have it: centred scores over the group's deviation, and no bonus on entropy."""


@dataclass(frozen=True)
class Key:
    """One key of the run and the field that it stands for."""

    text: str
    of: str

    @property
    def name(self) -> str:
        """Without the value."""
        return self.text.partition("=")[0]


def mapped(config: GRPOConfig, model: Model) -> dict[str, Key]:
    """The keys by name, without data and reward."""
    found = [Key(f"experiment={model.experiment}", "model_name")]
    if model.experiment.startswith("tiny"):
        found += [Key("layout=tp1", "model_name"), Key("trainer.n_gpus_per_node=1", "model_name")]
    found += [Key(text, "model_name") for text in model.overrides]
    found += [Key(text, "GRPO") for text in ALWAYS]
    found += _lengths(config) + _loss(config) + _times(config) + _told(config)
    keys = {key.name: key for key in found}
    keys |= {key.name: key for key in (Key(text, "--set") for text in config.overrides)}
    sizes = {key.name: key for key in _sizes(config, [key.text for key in keys.values()])}
    return {**sizes, **keys} if sizes else keys


def _lengths(config: GRPOConfig) -> list[Key]:
    whole = config.max_seq_length
    prompt = config.max_prompt_length or whole // 2
    if not 0 < prompt < whole:
        what = f"{prompt} tokens of the prompt leave nothing of {whole} for a response"
        raise UserError(what, where="max_seq_length", mend=f"max_prompt_length below {whole}, 2 tokens or more in all")
    values = {
        "rollout.max_model_len": whole,
        "data.max_prompt_length": prompt,
        "data.max_response_length": whole - prompt,
        "data.max_prefix_len": whole - prompt,
    }
    return _keys("max_seq_length", values)


def _loss(config: GRPOConfig) -> list[Key]:
    kl = {"algorithm.use_kl_loss": config.beta > 0, "algorithm.kl_loss_coef": config.beta}
    return [
        *_keys("beta", {**kl, "algorithm.kl_loss_type": "k3"} if config.beta else kl),
        *_keys("gamma", {"algorithm.gamma": config.gamma}),
        *_keys("learning_rate", {"trainer.lr": config.learning_rate, "trainer.lr_warmup_steps": 0}),
        *_keys("group_size", {"rollout.n": config.group_size, "rollout.n_verify": config.group_size}),
        *_keys("temperature", {"rollout.temperature": config.temperature}),
    ]


def _times(config: GRPOConfig) -> list[Key]:
    ends = {"trainer.total_epochs": config.num_train_epochs, "trainer.total_training_steps": None}
    found = _keys("num_train_epochs", ends)
    found += _keys("eval_steps", {"trainer.test_freq": config.eval_steps})
    found += _keys("save_steps", {"trainer.save_freq": config.save_steps})
    found += _keys("seed", {"trainer.seed": config.seed})
    if config.deterministic:
        found += _keys("deterministic", {"trainer.deterministic": True, "rollout.agent_driver": "lockstep"})
    if config.resume_from_checkpoint is not None:
        path = str(checkpoint_of(config.resume_from_checkpoint))
        found += _keys("resume_from_checkpoint", {"trainer.resume": path})
    return found


def _told(config: GRPOConfig) -> list[Key]:
    logged = config.max_generation_samples if config.enable_generation_logging else 0
    found = _keys("output_dir", {"trainer.run_dir": config.output_dir})
    found += _keys("max_generation_samples", {"trainer.log_val_generations": logged})
    if config.generation_log_dir is not None:
        found += _keys("generation_log_dir", {"trainer.generation_log_dir": config.generation_log_dir})
    if config.wandb_project is not None:
        found += _keys("wandb_project", {"trainer.project_name": config.wandb_project})
        found.append(Key("trainer.logger=[tensorboard,wandb]", "wandb_project"))
    return found


def _sizes(config: GRPOConfig, texts: list[str]) -> list[Key]:
    """The batch in responses, as prompts."""
    dp = load(texts).run.dp
    device, accumulated, group = (
        config.per_device_train_batch_size,
        config.gradient_accumulation_steps,
        config.group_size,
    )
    responses = device * accumulated * dp
    told = f"{device} on a device x {accumulated} accumulated x {dp} data-parallel = {responses} responses a step"
    if responses % group:
        mend = f"a product that {group} divides: gradient_accumulation_steps, --batch-size, or another group_size"
        raise UserError(f"{told}, which is no whole number of groups of {group}", where="--batch-size", mend=mend)
    prompts = responses // group
    of = f"{told}: {prompts} prompts x group_size {group}"
    batch = {"data.train_batch_size": prompts, "trainer.ppo_mini_batch_size": prompts}
    rows = {"trainer.use_dynamic_bsz": False, "trainer.ppo_micro_batch_size": device}
    return [*_keys(of, batch), *_keys("per_device_train_batch_size", rows)]


def _keys(of: str, values: dict[str, Any]) -> list[Key]:
    return [Key(f"{name}={json.dumps(value)}", of) for name, value in values.items()]


def checkpoint_of(path: str) -> Path:
    """A checkpoint, or the newest one of a run."""
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        return folder
    for place in (folder / CHECKPOINTS, folder):
        newest = Checkpoints(place, 1).newest() if place.is_dir() else None
        if newest is not None:
            return newest
    mend = f"OUTPUT_DIR/{CHECKPOINTS}/step_N, or OUTPUT_DIR for its newest"
    raise UserError(f"no checkpoint is there: {path}", where="--resume-from-checkpoint", mend=mend)


def with_files(config: GRPOConfig, keys: dict[str, Key], dataset: GRPODataset) -> tuple[dict[str, Key], list[str]]:
    """Prompts and reward as files of the run, the keys that name them, and what is to be said of both."""
    folder = Path(config.output_dir)
    chosen = choose(config, dataset.with_answers, len(dataset))
    trained = write_prompts(dataset.trained, folder / DATA, "train")
    tested = write_prompts(dataset.tested, folder / DATA, "val")
    found = _keys(dataset.origin.name, {"data.train_files": [str(trained)], "data.val_files": [str(tested)]})
    found.append(Key("data.make=null", dataset.origin.name))
    if dataset.origin.file:
        found += _keys(dataset.origin.name, {"data.image_root": str(Path(dataset.origin.file).parent.absolute())})
    found += _keys("reward_function_type", {"reward.file": str(write_reward(chosen, folder))})
    found.append(Key(f"algorithm.success={chosen.success}", "reward_function_type"))
    notes = [f"reward: {chosen.told}", *chosen.notes, *dataset.notes]
    return {**{key.name: key for key in found if key.name not in keys}, **keys}, notes


def run_of(keys: dict[str, Key]) -> RunConfig:
    """The run that the keys make."""
    return load_run([key.text for key in keys.values()])


def table(keys: dict[str, Key]) -> list[str]:
    """The keys as lines: what was asked for, and what it became."""
    by_origin: dict[str, list[str]] = {}
    for key in keys.values():
        by_origin.setdefault(key.of, []).append(key.text)
    return [f"  {of} -> {' '.join(_shown(texts))}" for of, texts in by_origin.items()]


def _shown(texts: Sequence[str]) -> list[str]:
    """A folder's shape has some thirty keys; they are those of its `config.json`."""
    shape = [text for text in texts if text.startswith("model.") and not text.startswith("model.path=")]
    return [text for text in texts if text not in shape] + (["(and the shape of its config.json)"] if shape else [])
