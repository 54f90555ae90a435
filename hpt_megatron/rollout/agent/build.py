"""From a run to its agent: the one place where keys become parts.

Example: with agent_of(run, engine, "checkpoints/hf") as agent: agent.probe(); agent.collect(tasks, sampling, samples=8)
"""

from dataclasses import replace

from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.build import Told, prompt_rules
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.rollout.agent.collect import Agent
from hpt_megatron.rollout.agent.episode import Kit
from hpt_megatron.rollout.agent.generator import Generator, GeneratorSettings
from hpt_megatron.rollout.agent.machine import Rules
from hpt_megatron.rollout.agent.modes import Mode, instructed, instruction_of, mode_of
from hpt_megatron.rollout.agent.views import CropRules, Viewer
from hpt_megatron.rollout.engine.role import RolloutEngine
from hpt_megatron.rollout.loop_thread import LoopThread
from hpt_megatron.rollout.search.client import SearchClient
from hpt_megatron.rollout.search.settings import Retriever
from hpt_megatron.rollout.tools import bbox, calculator, search  # noqa: F401  (they name themselves)
from hpt_megatron.rollout.tools.tool import TOOLS, Equipment, Tool


def agent_of(run: RunConfig, engine: RolloutEngine, folder: str) -> Agent:
    """`folder` holds the tokenizer and the processor's settings."""
    rollout = run.rollout
    mode = mode_of(rollout.agent, rollout.tools)
    viewer = viewer_of(run, folder)
    client = SearchClient(Retriever.of(rollout)) if "search" in mode.actions else None
    generator = None
    if rollout.agent == "searcher" and rollout.generator_url is not None:
        settings = GeneratorSettings(
            url=rollout.generator_url,
            model=rollout.generator_model or "",
            max_tokens=rollout.generator_max_tokens,
            max_images=rollout.generator_max_images,
        )
        generator = Generator(settings)
    kit = Kit(
        engine=engine,
        chat=Chat.open(folder),
        viewer=viewer,
        mode=mode,
        rules=rules_of(run, mode),
        tools=tools_of(mode, Equipment(viewer, client, rollout.images_per_search)),
        seed=run.trainer.seed,
        instruction=instruction_of(mode, rollout.agent_prompt),
        own=prompt_rules(run.data),
        truncate=rollout.truncate_after_action,
        captions=rollout.observation_captions,
        generator=generator,
        append_answer=rollout.append_generator_answer,
    )
    return Agent(kit, client, rollout.agent_driver)


def check_search(run: RunConfig) -> None:
    """Whether the search service that a run needs answers; a refusal is one line, before anything has started."""
    rollout = run.rollout
    if "search" in mode_of(rollout.agent, rollout.tools).actions:
        client, loop = SearchClient(Retriever.of(rollout)), LoopThread("search")
        try:
            loop.run(client.probe())
        finally:
            loop.run(client.close())
            loop.close()


def instructing(run: RunConfig) -> Told:
    """What the agent of a run adds to a record: its prompt is longer by that, and has to fit all the same."""
    instruction = instruction_of(mode_of(run.rollout.agent, run.rollout.tools), run.rollout.agent_prompt)
    return lambda record: replace(record, prompt=instructed(record.prompt, instruction))


def viewer_of(run: RunConfig, folder: str) -> Viewer:
    """Images as this run shows them."""
    rollout, data = run.rollout, run.data
    crop = CropRules(rollout.crop_pad_px, rollout.crop_repair)
    rules = PictureRules.of_folder(folder)
    return Viewer(rules, data.image_min_pixels, data.image_max_pixels, crop, data.image_limit)


def tools_of(mode: Mode, equipment: Equipment) -> dict[str, Tool]:
    """The tools that a mode names."""
    return {name: TOOLS.get(name)(equipment) for name in mode.actions if name != mode.ending}


def rules_of(run: RunConfig, mode: Mode) -> Rules:
    """Budgets and choices of a run."""
    rollout, data = run.rollout, run.data
    return Rules(
        actions=mode.actions,
        ending=mode.ending,
        max_turns=rollout.max_turns,
        final_turn=rollout.final_turn,
        max_new_tokens_per_turn=rollout.max_new_tokens_per_turn or data.max_response_length,
        max_prompt_tokens=data.max_prompt_length,
        max_response_tokens=data.max_response_length,
        max_model_len=rollout.max_model_len,
        max_images=rollout.max_images,
        max_visual_tokens=rollout.max_visual_tokens,
        invalid_limit=rollout.invalid_limit,
        wall_time_s=rollout.wall_time_per_traj_s,
        on_failure=rollout.search_on_failure,
        on_complete_false=rollout.on_complete_false,
        generator=rollout.generator_url is not None and rollout.agent == "searcher",
    )
