"""A run from its configuration to its end: files, prompts, roles, loop.

Example: train(load_run(["experiment=tiny-hpt"]), sys.stdout)
"""

from dataclasses import replace
from pathlib import Path
from typing import TextIO

from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.build import build_sampler, train_prompts, val_prompts
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.prompts import Prompts
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.driver.loop.roles import Saved
from hpt_megatron.driver.loop.run import Course, total_steps
from hpt_megatron.driver.loop.validation import Validation
from hpt_megatron.observe.build import open_journal
from hpt_megatron.observe.journal import Journal
from hpt_megatron.observe.record import check_record, write_record
from hpt_megatron.observe.trackers.tracker import check_trackers
from hpt_megatron.planning.answer import short_form
from hpt_megatron.recipes.files import with_files
from hpt_megatron.rollout.engine.forbidden import forbidden_ids


def train(asked: RunConfig, shown: TextIO) -> int:
    """Trains; answers how many steps were made."""
    folder = Path(asked.trainer.run_dir)
    check_record(asked, folder)
    check_trackers(asked.trainer.logger)
    run = with_files(asked, folder)
    model = str(run.model.path)
    chat, rules = Chat.open(model), PictureRules.of_folder(model)
    prompts = train_prompts(run.data, chat, rules)
    tested = val_prompts(run.data, chat, rules)
    total = total_steps(run, len(prompts))
    run = replace(run, trainer=replace(run.trainer, total_training_steps=total))
    write_record(asked, folder)
    questions = {name: tested[name].record.question for name in tested.names}
    with open_journal(run, folder, total, shown, questions) as journal:
        return _steps(run, chat, prompts, tested, journal)


def _steps(run: RunConfig, chat: Chat, prompts: Prompts, tested: Prompts, journal: Journal) -> int:
    folder, total = journal.folder, journal.total
    for line in short_form(run):
        journal.tell(line)
    journal.tell(f"{len(prompts)} prompts, {total} steps of {run.data.train_batch_size}, in {folder}")
    from hpt_megatron.driver.ray.call import ActorDiedError  # Ray, and with it everything that takes time
    from hpt_megatron.driver.ray.start import open_roles

    forbidden = forbidden_ids(chat, run.model.vocab_size)
    for left in reversed(range(1 + run.trainer.max_restarts)):
        try:
            with open_roles(run, forbidden, folder) as roles:
                sampler = build_sampler(run.data, run.trainer.seed, prompts)
                loop = RlLoop(run, roles, Algorithm(run), prompts, sampler)
                validation = Validation(run, loop, tested) if len(tested) else None
                saved: dict[str, Saved] = {"trainer": roles.policy}
                if roles.critic is not None:
                    saved["critic"] = roles.critic
                return Course(run, loop, saved, journal, validation).go()
        except ActorDiedError as error:
            if not left:
                raise
            journal.tell(f"{error}; all roles start again, from the newest checkpoint")
            run = replace(run, trainer=replace(run.trainer, resume="auto"))
    raise AssertionError  # the last try answers or raises
