"""A run from its configuration to its end: files, prompts, roles, loop.

Example: train(load_run(["experiment=tiny-hpt"]), sys.stdout)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from hpt_megatron.config.algorithm import scores_rows
from hpt_megatron.config.run import RunConfig, TrainerConfig
from hpt_megatron.data.build import base_prompts, build_sampler, hold_out, train_prompts, val_prompts, warmup_prompts
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.prompts import Prompt, Prompts
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.checkpoints import Checkpoints
from hpt_megatron.driver.loop.fence import UNFENCED, Fence, hold
from hpt_megatron.driver.loop.pairs import rejected
from hpt_megatron.driver.loop.preference import PreferenceLoop
from hpt_megatron.driver.loop.reward_run import RewardRun
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.driver.loop.roles import Roles, Saved
from hpt_megatron.driver.loop.run import CHECKPOINTS, Course, stoppable, total_steps
from hpt_megatron.driver.loop.supervised import SupervisedLoop
from hpt_megatron.driver.loop.supply import Supply
from hpt_megatron.driver.loop.validation import Validation
from hpt_megatron.errors import UserError
from hpt_megatron.observe.build import open_journal
from hpt_megatron.observe.journal import Journal
from hpt_megatron.observe.record import check_marks, check_record, write_record
from hpt_megatron.observe.trackers.tracker import check_trackers
from hpt_megatron.planning.answer import short_form
from hpt_megatron.recipes.files import with_files
from hpt_megatron.recipes.roles_table import roles_table
from hpt_megatron.rollout.agent.build import check_search, instructing
from hpt_megatron.rollout.engine.forbidden import forbidden_ids
from hpt_megatron.rollout.marks import marks_of


@dataclass(frozen=True)
class Questions:
    """What a run reads from its files: prompts to train on, to warm up on, to validate on, demonstrations held out."""

    trained: Prompts
    warmup: Prompts | None
    tested: list[Prompt]
    held: list[Prompt]
    base: list[Prompt]

    @classmethod
    def of(cls, run: RunConfig, chat: Chat, rules: PictureRules) -> "Questions":
        """All of them, read and checked."""
        told = instructing(run)
        trained, tested = train_prompts(run.data, chat, rules, told), val_prompts(run.data, chat, rules, told)
        held = hold_out(trained, run.data.hold_out, run.trainer.seed)
        warmup, base = warmup_prompts(run.data, chat, rules, told), base_prompts(run.data, chat, rules, told)
        return cls(trained, warmup, [tested[name] for name in tested.names], held, base)


@stoppable()
def train(asked: RunConfig, shown: TextIO) -> int:
    """Trains; answers how many steps were made."""
    folder = Path(asked.trainer.run_dir)
    check_record(asked, folder)
    check_trackers(asked.trainer.logger)
    run = with_files(asked, folder)
    check_search(run)
    chat = Chat.open(str(run.model.path))
    rules, forbidden = PictureRules.of_folder(str(run.model.path)), forbidden_ids(chat, run.model.vocab_size)
    questions = Questions.of(run, chat, rules)
    marks = marks_of(chat, rules, forbidden)
    trained = [RewardRun.of(path) for path in run.reward.learned.runs]
    for each in trained:
        each.check(marks)
    RewardRun.check_heads(trained, run.reward)
    check_marks(marks, folder)
    total = total_steps(run, len(questions.trained))
    run = replace(run, trainer=counted(run.trainer, total))
    asked_of = {prompt.index: prompt.record.question for prompt in questions.tested}
    with hold(folder, shown) as fence:
        write_record(asked, folder)
        with open_journal(run, folder, total, shown, asked_of) as journal:
            return _steps(run, questions, forbidden, journal, fence, trained)


def _steps(
    run: RunConfig,
    questions: Questions,
    forbidden: tuple[int, ...],
    journal: Journal,
    fence: Fence,
    trained: Sequence[RewardRun] = (),
) -> int:
    folder, total = journal.folder, journal.total
    if run.trainer.resume == "auto" and max(Checkpoints(folder / CHECKPOINTS, 1).steps(), default=0) >= total:
        journal.tell(f"all {total} steps are made, in {folder}; more of them: trainer.total_training_steps")
        return 0
    generates = generating(run, questions)
    for line in [*short_form(run), *roles_table(run, generates)]:
        journal.tell(line)
    journal.tell(f"{len(questions.trained)} prompts, {total} steps of {run.data.train_batch_size}, in {folder}")
    from hpt_megatron.driver.ray.call import ActorDiedError, MemoryShortError  # Ray, and with it all that takes time
    from hpt_megatron.driver.ray.start import open_roles

    for left in reversed(range(1 + run.trainer.max_restarts)):
        try:
            with open_roles(run, forbidden, folder, generates, trained) as roles:
                return course_of(run, roles, questions, journal, fence).go()
        except (ActorDiedError, MemoryShortError) as error:
            if not left:
                raise
            if isinstance(error, MemoryShortError):
                run = with_less(run)
                tokens = run.trainer.ppo_max_token_len_per_gpu
                journal.tell(f"{error}; from here on trainer.ppo_max_token_len_per_gpu={tokens}")
            journal.tell(f"{error}; all roles start again, from the newest checkpoint")
            run = replace(run, trainer=replace(run.trainer, resume="auto"))
    raise AssertionError  # the last try answers or raises


def generating(run: RunConfig, questions: Questions) -> bool:
    """Whether anybody samples: for what is trained on, or for validation."""
    preference = run.algorithm.preference
    if preference.loss is not None and preference.pairs == "file":
        asked = [prompt for prompt in questions.tested if rejected(prompt.record) is None]
        return run.trainer.test_freq > 0 and bool(asked) and not scores_rows(run.algorithm)
    return not run.supervised or (run.trainer.test_freq > 0 and bool(questions.tested))


def counted(trainer: TrainerConfig, total: int) -> TrainerConfig:
    """With all that depends on how many steps there are."""
    share = trainer.lr_warmup_share
    warmup = trainer.lr_warmup_steps if share is None else round(share * total)
    return replace(trainer, total_training_steps=total, lr_warmup_steps=warmup)


def course_of(run: RunConfig, roles: Roles, questions: Questions, journal: Journal, fence: Fence = UNFENCED) -> Course:
    """The loop of a run and what surrounds it."""

    def supply(prompts: Prompts) -> Supply:
        return Supply(prompts, build_sampler(run.data, run.trainer.seed, prompts))

    kind = SupervisedLoop if roles.rollout is None else RlLoop
    if run.algorithm.preference.loss is not None:
        kind = PreferenceLoop
    first = None if run.trainer.sft_warmup_steps is None else questions.warmup
    warmup = None if first is None else supply(first)
    loop = kind(run, roles, Algorithm(run), supply(questions.trained), warmup)
    saved: dict[str, Saved] = {"trainer": roles.policy}
    if roles.critic is not None:
        saved["critic"] = roles.critic
    tested = questions.tested if roles.rollout is not None else []
    pairs = [prompt for prompt in questions.tested if rejected(prompt.record) is not None]
    pairs = pairs if isinstance(loop, PreferenceLoop) else []
    tested = [prompt for prompt in tested if prompt not in pairs]
    held, base = ([], []) if scores_rows(run.algorithm) else (questions.held, questions.base)
    validation = Validation(run, loop, tested, held, pairs, base) if tested or held or pairs or base else None
    return Course(run, loop, saved, journal, validation, fence, roles.moves)


def with_less(run: RunConfig) -> RunConfig:
    """Packs of half as many tokens, but not fewer than the longest row has."""
    longest = run.data.max_prompt_length + run.data.max_response_length
    tokens = run.trainer.ppo_max_token_len_per_gpu * run.layout.cp
    if not run.trainer.use_dynamic_bsz or tokens <= longest:
        mend = "shorter rows, more recomputation or more devices; `hpt plan` says what fits"
        raise UserError(f"out of memory with packs of {tokens} tokens, rows have up to {longest}", mend=mend)
    fewer = max(tokens // 2, longest)
    fewer = -(-fewer // run.layout.cp)
    return replace(run, trainer=replace(run.trainer, ppo_max_token_len_per_gpu=fewer))
