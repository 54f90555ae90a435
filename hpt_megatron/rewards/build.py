"""From a run to what scores: the composition, its workers and its judge.

    with build_scorer(run) as scorer:
        scorer.submit(samples)

A file of JSON comes before a preset, a preset before the number. Processes are started, and a judge connected, only
where a component needs them.

Invariants
    1. What cannot work is refused here and not at the first sample: an unknown number, a judge without an address or
       without its token, code that may not run, a success on a component that is not there, a worker that does
       not pass its own test. `problems_of` finds what needs no process and no token; `hpt config validate` prints it.
    2. A component that computes on what a model wrote ends up in a process.

Example:
    >>> from hpt_megatron.config.load import load
    >>> [(part.name, part.weight) for part in composition_of(load(["reward=rag"]).run).parts]
    [('format', 0.1), ('ndcg', 0.9)]
"""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpt_megatron.config.problem import Problem
from hpt_megatron.config.run import RewardConfig, RunConfig
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.rewards.by_number import BY_NUMBER, named
from hpt_megatron.rewards.code_answers import CodeAnswer
from hpt_megatron.rewards.component import Component, place_of
from hpt_megatron.rewards.composition import TOTAL, Composition
from hpt_megatron.rewards.composition_file import load_composition
from hpt_megatron.rewards.judge import Judge, JudgeSettings
from hpt_megatron.rewards.llm_judge import LlmJudge, WithJudge
from hpt_megatron.rewards.scorer import Scorer
from hpt_megatron.rewards.tool_use import ToolUse
from hpt_megatron.rewards.turns import Format
from hpt_megatron.rewards.workers import InWorker, Limits, Workers

THREADS = 4  # at least, for what needs neither a process nor the network
SANDBOX_SECONDS = 10.0  # to set a program up and to take it down


def composition_of(run: RunConfig) -> Composition:
    """What is added up, before anything is started for it; weights of the run come on top of a file's own."""
    composition, modality_weights = _chosen(run.reward), run.reward.modality_weights
    more = {"text": modality_weights.text, "image": modality_weights.image, "images": modality_weights.images}
    own = composition.modality
    weights = {name: own.get(name, 1.0) * more.get(name, 1.0) for name in {*own, *more}}
    return replace(
        composition,
        parts=tuple(replace(part, component=_with_tools(part.component, run)) for part in composition.parts),
        modality={name: weight for name, weight in sorted(weights.items()) if weight != 1.0},
    )


def _chosen(reward: RewardConfig) -> Composition:
    if reward.file is not None:
        return load_composition(Path(reward.file))
    if reward.preset is not None:
        return named(reward.preset)
    return BY_NUMBER.get(str(reward.reward_impl_version))(reward)


def _with_tools(component: Component, run: RunConfig) -> Component:
    """What looks at actions knows the run's further tools, unless it was told which there are."""
    if isinstance(component, (Format, ToolUse)) and not component.tools:
        return replace(component, tools=run.rollout.tools)
    return component


def problems_of(run: RunConfig) -> list[Problem]:
    """What keeps a composition from being scored or from saying what a success is; nothing is started or asked."""
    reward = run.reward
    try:
        composition = composition_of(run)
    except Exception as error:  # another package's number may raise whatever it likes
        key = "file" if reward.file is not None else "preset" if reward.preset is not None else "reward_impl_version"
        what, mend = (
            (error.what, error.mend) if isinstance(error, HptError) else (f"{type(error).__name__}: {error}", "")
        )
        return [Problem(f"reward.{key}", getattr(reward, key), what, mend)]
    components = [part.component for part in composition.parts]
    names = [*(part.name for part in composition.parts), TOTAL]
    found = [
        Problem("algorithm.success", success.component, "no such component in the reward", ", ".join(names))
        for success in run.algorithm.success
        if success.component not in names and not (reward.learned.runs and _is_learned(success.component))
    ]
    constraint = reward.constraint
    if constraint.how != "off" and constraint.component not in names and not _is_learned(constraint.component):
        why = "no such component in the reward"
        found.append(Problem("reward.constraint.component", constraint.component, why, ", ".join(names)))
    second = run.trainer.monitors.second
    asked = second is not None and bool(reward.learned.runs) and _is_learned(second)
    if second is not None and second not in names[:-1] and not asked:
        why = "the second judge is a component of the reward, and there is none of this name"
        mend = ", ".join([*names[:-1], *["learned/HEAD"] * bool(reward.learned.runs)])
        found.append(Problem("trainer.monitors.second", second, why, mend))
    if reward.judge.url is None and any(isinstance(component, LlmJudge) for component in components):
        found.append(Problem("reward.judge.url", None, "the composition asks a judge", "the address of a chat server"))
    if not reward.run_code and any(isinstance(component, CodeAnswer) for component in components):
        why = "the composition runs code that a model wrote"
        found.append(Problem("reward.run_code", False, why, "true, which allows it"))
    return found


def _is_learned(name: str) -> bool:
    """What reward models say; they are asked elsewhere."""
    return name.split("/")[0] == "learned"


def build_scorer(run: RunConfig) -> Scorer:
    """A scorer at work; close it after use."""
    for problem in problems_of(run):
        raise UserError(problem.why, where=problem.path, mend=problem.right)
    reward, composition = run.reward, composition_of(run)
    components = [part.component for part in composition.parts]
    judge = _judge(reward) if any(isinstance(component, LlmJudge) for component in components) else None
    computing = [component for component in components if place_of(component) == "process"]
    workers = Workers(computing, reward.workers, Limits(seconds=reward.timeout_s)) if computing else None
    if workers is not None:
        workers.check()
    at_work = [replace(part, component=_placed(part.component, workers, judge)) for part in composition.parts]
    threads = max(THREADS, reward.workers + (reward.judge.concurrency if judge else 0))
    return Scorer(
        replace(composition, parts=tuple(at_work)),
        threads=threads,
        seconds=_seconds(reward, components, threads, judge is not None),
        workers=workers,
        judge=judge,
    )


def _seconds(reward: RewardConfig, components: Sequence[Component], threads: int, judged: bool) -> float:
    """All that a sample may wait for: a worker that the other threads are ahead of it at, its programs, the judge."""
    computing = sum(place_of(component) == "process" for component in components)
    rounds = math.ceil(threads / reward.workers) + 1
    seconds = 60.0 + computing * rounds * (reward.timeout_s + Limits.start_seconds)
    seconds += sum(component.seconds + SANDBOX_SECONDS for component in components if isinstance(component, CodeAnswer))
    return seconds + (reward.judge.timeout_s * reward.judge.votes * 2 if judged else 0.0)


def _placed(component: Component, workers: Workers | None, judge: Judge | None) -> Component:
    if isinstance(component, LlmJudge) and judge is not None:
        return WithJudge(component, judge)
    if workers is not None and place_of(component) == "process":
        return InWorker(component, workers)
    return component


def _judge(reward: RewardConfig) -> Judge:
    judge = reward.judge
    if judge.token_env is not None and not os.environ.get(judge.token_env):
        mend = f"export {judge.token_env}=... before the run"
        raise UserError(f"the environment has no {judge.token_env}", where="reward.judge.token_env", mend=mend)
    return Judge(
        JudgeSettings(
            url=judge.url or "",
            model=judge.model,
            token_env=judge.token_env,
            seconds=judge.timeout_s,
            retries=judge.retries,
            votes=judge.votes,
            concurrency=judge.concurrency,
        )
    )
