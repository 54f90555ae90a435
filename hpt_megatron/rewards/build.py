"""From the run's reward group to what scores: the composition, its workers and its judge.

    with build_scorer(run.reward) as scorer:
        scorer.submit(samples)

A file of JSON comes before a preset, a preset before the number. Processes are started, and a judge connected, only
where a component needs them.

Invariants
    1. What cannot work is refused here and not at the first sample: an unknown number, a judge without an address or
       without its token, code that may not run, a worker that does not pass its own test.
    2. A component that computes on what a model wrote ends up in a process.

Example:
    >>> from hpt_megatron.config.load import load
    >>> from hpt_megatron.rewards.composition import RETRIEVAL
    >>> composition_of(load(["reward=rag"]).run.reward) == RETRIEVAL
    True
"""

import math
import os
from dataclasses import replace
from pathlib import Path

from hpt_megatron.config.run import RewardConfig
from hpt_megatron.errors import UserError
from hpt_megatron.rewards.by_number import BY_NUMBER, named
from hpt_megatron.rewards.code_answers import CodeAnswer
from hpt_megatron.rewards.component import Component, place_of
from hpt_megatron.rewards.composition import Composition
from hpt_megatron.rewards.composition_file import load_composition
from hpt_megatron.rewards.judge import Judge, JudgeSettings
from hpt_megatron.rewards.judged import LlmJudge, WithJudge
from hpt_megatron.rewards.scorer import Scorer
from hpt_megatron.rewards.workers import InWorker, Limits, Workers

THREADS = 4  # at least, for what needs neither a process nor the network


def composition_of(reward: RewardConfig) -> Composition:
    """What is added up, before anything is started for it; weights of the run come on top of a file's own."""
    composition, modality_weights = _chosen(reward), reward.modality_weights
    more = {"text": modality_weights.text, "image": modality_weights.image, "images": modality_weights.images}
    own = composition.modality
    weights = {name: own.get(name, 1.0) * more.get(name, 1.0) for name in {*own, *more}}
    return replace(composition, modality={name: weight for name, weight in sorted(weights.items()) if weight != 1.0})


def _chosen(reward: RewardConfig) -> Composition:
    if reward.file is not None:
        return load_composition(Path(reward.file))
    if reward.preset is not None:
        return named(reward.preset)
    return BY_NUMBER.get(str(reward.reward_impl_version))(reward)


def build_scorer(reward: RewardConfig) -> Scorer:
    """A scorer at work; close it after use."""
    composition = composition_of(reward)
    components = [part.component for part in composition.parts]
    if not reward.run_code and any(isinstance(component, CodeAnswer) for component in components):
        raise UserError("the composition runs code that a model wrote", where="reward.run_code", mend="true allows it")
    judged = any(isinstance(component, LlmJudge) for component in components)
    judge = _judge(reward) if judged else None
    computing = [component for component in components if place_of(component) == "process"]
    workers = Workers(computing, reward.workers, Limits(seconds=reward.timeout_s)) if computing else None
    if workers is not None:
        workers.check()
    at_work = [replace(part, component=_placed(part.component, workers, judge)) for part in composition.parts]
    threads = max(THREADS, reward.workers + (reward.judge.concurrency if judge else 0))
    # All that a sample may wait for: a worker that the other threads are ahead of it at, and the judge.
    rounds = math.ceil(threads / reward.workers) + 1
    seconds = len(computing) * rounds * (reward.timeout_s + Limits.start_seconds)
    seconds += reward.judge.timeout_s * reward.judge.votes * 2 if judge else 0.0
    return Scorer(
        replace(composition, parts=tuple(at_work)),
        threads=threads,
        seconds=60.0 + seconds,
        workers=workers,
        judge=judge,
    )


def _placed(component: Component, workers: Workers | None, judge: Judge | None) -> Component:
    if isinstance(component, LlmJudge) and judge is not None:
        return WithJudge(component, judge)
    if workers is not None and place_of(component) == "process":
        return InWorker(component, workers)
    return component


def _judge(reward: RewardConfig) -> Judge:
    judge = reward.judge
    if judge.url is None:
        raise UserError("the composition asks a judge", where="reward.judge.url", mend="the address of a chat server")
    if judge.token_env is not None and not os.environ.get(judge.token_env):
        mend = f"export {judge.token_env}=... before the run"
        raise UserError(f"the environment has no {judge.token_env}", where="reward.judge.token_env", mend=mend)
    return Judge(
        JudgeSettings(
            url=judge.url,
            model=judge.model,
            token_env=judge.token_env,
            seconds=judge.timeout_s,
            retries=judge.retries,
            votes=judge.votes,
            concurrency=judge.concurrency,
        )
    )
