"""From the group `data` of a run to its prompts and their order: the one place here that reads the configuration."""

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from hpt_megatron.config.run import DataConfig
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.prompts import Prompt, PromptRules, Prompts
from hpt_megatron.data.reading import read
from hpt_megatron.data.record import Record
from hpt_megatron.data.samplers import BySuccess, Hard, Sampler, Shuffled, Staged
from hpt_megatron.errors import UserError

LOG = logging.getLogger(__name__)
Told = Callable[[Record], Record]
SHOWN = 5  # rows that are left out; `hpt data inspect` tells all


def alone(record: Record) -> Record:
    """A policy that is told nothing beside its prompt."""
    return record


def prompt_rules(data: DataConfig) -> PromptRules:
    """How records of the run become prompts."""
    return PromptRules(
        longest=data.max_prompt_length,
        longest_target=data.max_prefix_len,
        drop_system=data.drop_system,
        suffix=data.suffix_prompt,
        response_prefix=data.response_prefix,
        min_pixels=data.image_min_pixels,
        max_pixels=data.image_max_pixels,
        pixel_limit=data.image_limit,
    )


def train_prompts(data: DataConfig, chat: Chat, rules: PictureRules, told: Told = alone) -> Prompts:
    """The prompts that are trained on; enough for a step, or one line says so."""
    if not data.train_files:
        raise UserError("no file is given", where="data.train_files", mend="make one with `hpt data make count OUT`")
    prompts = _made(read(data.train_files, data.image_root).sound(), chat, rules, data, told)
    if len(prompts) < data.train_batch_size:
        numbers = ", ".join(f"{name} {number}" for name, number in prompts.report.items())
        first = f"; {prompts.problems[0].where}: {prompts.problems[0].what}" if prompts.problems else ""
        what = f"{len(prompts)} prompts can be used, a step takes {data.train_batch_size} ({numbers}{first})"
        raise UserError(what, where="data.train_batch_size", mend="`hpt data inspect FILE --model FOLDER` says why")
    return prompts


def warmup_prompts(data: DataConfig, chat: Chat, rules: PictureRules, told: Told = alone) -> Prompts | None:
    """The prompts that a warm-up imitates; None where they are those that are trained on."""
    if not data.warmup_files:
        return None
    return train_prompts(replace(data, train_files=data.warmup_files), chat, rules, told)


def hold_out(prompts: Prompts, count: int, seed: int) -> list[Prompt]:
    """Takes so many demonstrations out of the prompts, the same for the same seed."""
    shown = [name for name in prompts.names if prompts[name].target_ids]
    if count > len(shown) // 2:
        what = f"{count} demonstrations are to be held out, and there are {len(shown)}"
        raise UserError(what, where="data.hold_out", mend=f"at most {len(shown) // 2}")
    held = random.Random(f"{seed}/hold_out").sample(shown, count)
    prompts.remove_data(held)
    return [prompts[name] for name in held]


def val_prompts(data: DataConfig, chat: Chat, rules: PictureRules, told: Told = alone) -> Prompts:
    """The prompts that are validated on; none where no file is given."""
    found = read(data.val_files, data.image_root) if data.val_files else None
    records: list[Record] = found.sound("data.val_files") if found else []
    return _made(records, chat, rules, data, told)


def base_prompts(data: DataConfig, chat: Chat, rules: PictureRules, told: Told = alone) -> list[Prompt]:
    """Demonstrations of what is not to be forgotten; none where no file is given."""
    found = read(data.base_files, data.image_root) if data.base_files else None
    prompts = _made(found.sound("data.base_files") if found else [], chat, rules, data, told)
    return [prompts[name] for name in prompts.names if prompts[name].target_ids]


def _made(records: Iterable[Record], chat: Chat, rules: PictureRules, data: DataConfig, told: Told) -> Prompts:
    """The prompts; the first few that are left out are told by name."""
    prompts = Prompts.of(records, chat, rules, prompt_rules(data), told)
    for problem in prompts.problems[:SHOWN]:
        LOG.warning("left out: %s: %s", problem.where, problem.what)
    if len(prompts.problems) > SHOWN:
        LOG.warning("left out: %d more rows", len(prompts.problems) - SHOWN)
    return prompts


def build_sampler(data: DataConfig, seed: int, prompts: Prompts) -> Sampler:
    """The order that `data.sampler` names."""
    names = prompts.names
    if data.sampler == "shuffled":
        return Shuffled(names, seed)
    if data.sampler == "hard":
        return Hard(names, seed)
    difficulty = difficulties(data.difficulty or "", (prompts[name].record for name in names))
    if data.sampler == "staged":
        return Staged(names, seed, difficulty, data.stages)
    return BySuccess(names, seed, difficulty, data.stages, data.promote_at)


def difficulties(key: str, records: Iterable[Record]) -> dict[str, float]:
    """The number of each record that has one, turned round where the key starts with `-`; higher is harder."""
    name, sign = (key[1:], -1.0) if key.startswith("-") else (key, 1.0)
    found = {}
    for record in records:
        number = _number(record.extra, name)
        if number is not None:
            found[record.index] = sign * number
    if not found:
        mend = "name a number of extra_info; `hpt data inspect` lists them"
        raise UserError(f"no row has a number {name!r}", where="data.difficulty", mend=mend)
    return found


def _number(extra: Mapping[str, Any], name: str) -> float | None:
    try:
        number = float(extra.get(name))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number == number else None  # not a number is no number
