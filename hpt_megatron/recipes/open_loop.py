"""A run's loop, for who wants to write what happens between its parts: generate, reward, step.

    with open_loop(["experiment=tiny-grpo"]) as loop:
        loop.begin(1)
        prompts = loop.supply.take(loop.run.data.train_batch_size)
        rollouts = loop.generate(prompts, 1, log)                             scored as the run is configured
        rollouts = rescored(rollouts, [... for place, text in responses(loop, rollouts)])
        loop.learn(loop.decided(prompts, rollouts, 1, log), 1, log)

`examples/own_loop.py` is that in whole. No checkpoint is written and nothing is resumed: those surround a loop, and
belong to `hpt train`. A reward that needs nothing of the loop is better a component (docs/rewards.md): it is scored
while others still generate, on every node.

Invariant: what is configured is done as `hpt train` does it; only what is called in another order is another.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from hpt_megatron.config.load import load_run
from hpt_megatron.data.build import build_sampler, train_prompts
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.reward_run import RewardRun
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.driver.loop.roles import Collected
from hpt_megatron.driver.loop.run import total_steps
from hpt_megatron.driver.loop.supply import Supply
from hpt_megatron.errors import UserError
from hpt_megatron.recipes.files import with_files
from hpt_megatron.recipes.train import counted
from hpt_megatron.rollout.engine.forbidden import forbidden_ids
from hpt_megatron.rollout.marks import marks_of


@contextmanager
def open_loop(overrides: Sequence[str]) -> Iterator[RlLoop]:
    """All roles of a run at work, and the loop over them; they end when this ends."""
    from hpt_megatron.driver.ray.start import open_roles  # Ray, and with it all that takes time

    asked = load_run(overrides)
    if asked.algorithm.preference.loss is not None or asked.supervised:
        what = "a run over pairs or demonstrations alone has no rollouts to score"
        raise UserError(what, where="open_loop", mend="an experiment with rollouts, such as tiny-grpo")
    folder = Path(asked.trainer.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    run = with_files(asked, folder)
    chat, rules = Chat.open(str(run.model.path)), PictureRules.of_folder(str(run.model.path))
    prompts, forbidden = train_prompts(run.data, chat, rules), forbidden_ids(chat, run.model.vocab_size)
    run = replace(run, trainer=counted(run.trainer, total_steps(run, len(prompts))))
    trained = [RewardRun.of(path) for path in run.reward.learned.runs]
    for each in trained:
        each.check(marks_of(chat, rules, forbidden))
    with open_roles(run, forbidden, folder, trained=trained) as roles:
        yield RlLoop(run, roles, Algorithm(run), Supply(prompts, build_sampler(run.data, run.trainer.seed, prompts)))


def responses(loop: RlLoop, rollouts: Collected) -> list[tuple[int, str]]:
    """Of each row, which of the prompts it answers, and the policy's own text."""
    chat, rows = Chat.open(str(loop.run.model.path)), rollouts.batch.rows
    own = rows.tokens["trained"] & ~rows.tokens["off"]
    owner = rows.per_token(torch.arange(rows.num_rows))
    texts = [chat.text(rows.tokens["ids"][own & (owner == row)].tolist()) for row in range(rows.num_rows)]
    return list(zip(rows.fields["prompt"].tolist(), texts, strict=True))


def rescored(rollouts: Collected, scores: Sequence[float]) -> Collected:
    """With other scores, one for each row; what counts as a success stays the configured component."""
    rows = rollouts.batch.rows
    if len(scores) != rows.num_rows:
        raise UserError(f"{len(scores)} scores for {rows.num_rows} rows", where="rescored", mend="one for each row")
    score = torch.tensor(scores, dtype=torch.float32)
    valid = rows.fields["valid"] & torch.isfinite(score)
    rows = rows.with_fields(score=torch.where(valid, score, 0.0), valid=valid)
    return replace(rollouts, batch=rollouts.batch.with_rows(rows))
