"""The names of the sources, as thin faces over the agent: `LLMGenerationManager`, `GenerationConfig`, `run_llm_loop`.

Decision: whoever calls these finds the same words and gets our trajectories. Fields that would mean something else
here, or nothing, are refused with their reason.

    there                          here
    max_turns, search_url          the same
    max_prompt_length              data.max_prompt_length
    max_model_len                  rollout.max_model_len
    frozen_*, generator_*          the frozen generator
    crops_dir                      a folder for the crops as PNG files, for people to look at
    num_gpus                       accepted; nothing is padded to it

Example: LLMGenerationManager(folder, engine, GenerationConfig(max_turns=5), run=run).run_llm_loop(tasks, sampling, n=5)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.record import Record
from hpt_megatron.errors import UserError
from hpt_megatron.rollout.agent.build import agent_of
from hpt_megatron.rollout.agent.collect import Group
from hpt_megatron.rollout.agent.generator import Generator
from hpt_megatron.rollout.engine.role import RolloutEngine, Sampling


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Checked when it is made: types, ranges, and what belongs together."""

    max_turns: int
    search_url: str | None = None
    max_prompt_length: int = 8192
    max_model_len: int = 10240
    num_gpus: int = 1
    crops_dir: str | None = None
    frozen_model: str | None = None
    frozen_max_tokens: int = 256
    generator_max_images: int = 8
    use_system_prompt: bool = True
    generator_batch_workers: int = 16
    frozen_max_retries: int = 3
    frozen_backoff_base: float = 0.5

    def __post_init__(self) -> None:
        counts = "max_turns max_prompt_length max_model_len num_gpus frozen_max_tokens generator_max_images"
        for name in f"{counts} generator_batch_workers".split():
            self._number(name, 1)
        self._number("frozen_max_retries", 0)
        self._number("frozen_backoff_base", 0, whole=False)
        if self.max_prompt_length >= self.max_model_len:
            what = f"leaves no room in max_model_len {self.max_model_len}"
            raise UserError(what, where=f"max_prompt_length = {self.max_prompt_length}", mend="make it smaller")
        if self.search_url is not None:
            parts = urlsplit(self.search_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UserError("is not a web address", where="search_url", mend="http://HOST:PORT/search")
        if not isinstance(self.use_system_prompt, bool):
            raise UserError(
                "says yes or no", where=f"use_system_prompt = {self.use_system_prompt}", mend="true or false"
            )

    def _number(self, name: str, least: float, whole: bool = True) -> None:
        value: Any = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value < least:
            raise UserError("is not a number of its range", where=f"{name} = {value!r}", mend=f"{least} or more")

    def applied(self, run: RunConfig) -> RunConfig:
        """A run with these values in their places."""
        rollout = replace(
            run.rollout,
            max_turns=self.max_turns,
            search_url=self.search_url or run.rollout.search_url,
            max_model_len=self.max_model_len,
            generator_model=self.frozen_model or run.rollout.generator_model,
            generator_max_tokens=self.frozen_max_tokens,
            generator_max_images=self.generator_max_images,
            agent_prompt=run.rollout.agent_prompt if self.use_system_prompt else "none",
        )
        return replace(run, rollout=rollout, data=replace(run.data, max_prompt_length=self.max_prompt_length))


class LLMGenerationManager:
    """An agent under its source's name; the processor is a checkpoint's folder, the worker group an engine."""

    def __init__(
        self,
        processor: str,
        actor_rollout_wg: RolloutEngine,
        config: GenerationConfig,
        is_validation: bool = False,
        *,
        run: RunConfig,
    ) -> None:
        self.config, self.is_validation, self.n_val = config, is_validation, run.rollout.n_val
        self.agent = agent_of(config.applied(run), actor_rollout_wg, processor)
        generator = self.agent.kit.generator
        if generator is not None:
            settings = replace(
                generator.settings,
                workers=config.generator_batch_workers,
                retries=config.frozen_max_retries,
                backoff_base_s=config.frozen_backoff_base,
            )
            self.agent.kit = replace(self.agent.kit, generator=Generator(settings))

    def run_llm_loop(
        self, tasks: Sequence[tuple[str, Record]], sampling: Sampling, n: int = 1, step: int = 0
    ) -> list[Group]:
        """`n` trajectories of each prompt, `rollout.n_val` in validation, over at most `max_turns` turns with tools and
        the final one.
        """
        groups = self.agent.collect(tasks, sampling, self.n_val if self.is_validation else n, step)
        if self.config.crops_dir is not None:
            _write_crops(groups, Path(self.config.crops_dir))
        return groups

    def close(self) -> None:
        """Ends its agent."""
        self.agent.close()


def _write_crops(groups: Sequence[Group], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for done in (one for group in groups for one in group):
        for i, view in enumerate(done.images):
            if not view.whole and view.image is not None:
                name = "".join(letter if letter.isalnum() else "_" for letter in done.uid)[:80]
                view.image.save(folder / f"{name}_{done.sample}_{i}.png")
