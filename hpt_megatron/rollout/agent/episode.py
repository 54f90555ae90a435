"""One trajectory being made: does what the table says, and tells it what came of it.

    episode.effect --perform--> event --advance--> the next effect, until it is Finish

Decision: `perform` is the only place with side effects, and it is the same for both drivers; they differ in when they
call it.

Invariants
    1. What the engine sampled is appended before anything looks at it.
    2. An observation is appended when its turn is asked for, not before: one that does not fit leaves no trace.
    3. An error of ours that is not about one request (an engine that sleeps) is raised; all else is counted and leaves
       the other trajectories alone.
    4. The seed of a turn depends on the run, the step, the prompt, the sample and the turn, and on nothing that other
       trajectories do.

Example: while not episode.done: await episode.perform()
"""

import asyncio
import hashlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import itemgetter
from typing import Any

from hpt_megatron.algorithms.prefix import PrefixPlan, PrefixRow, PrefixSettings, make_plan
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.prompts import PromptRules
from hpt_megatron.data.record import Record
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.rewards.turns import ACTIONS, can_be_done
from hpt_megatron.rollout.agent.generator import Generator
from hpt_megatron.rollout.agent.machine import (
    Broke,
    Effect,
    Event,
    Finish,
    Generate,
    Measured,
    Observe,
    Phase,
    Prompted,
    Rules,
    Said,
    State,
    Use,
    Used,
    Write,
    Wrote,
    advance,
)
from hpt_megatron.rollout.agent.modes import Mode
from hpt_megatron.rollout.agent.observations import (
    LAST_SEARCH,
    LAST_TURN,
    NO_NEW_RESULT,
    UNAVAILABLE,
    Observation,
    Templates,
    harmless,
)
from hpt_megatron.rollout.agent.parsing import cut_after_action
from hpt_megatron.rollout.agent.prompting import Prompting
from hpt_megatron.rollout.agent.views import View, Viewer
from hpt_megatron.rollout.engine.role import EngineDiedError, Prompt, RequestRefusedError, RolloutEngine, Sampling
from hpt_megatron.rollout.tools.tool import Outcome, Scene, Tool
from hpt_megatron.rollout.trajectory import Builder, Trajectory, TurnNote, collapsed

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kit:
    """What all trajectories of a run share."""

    engine: RolloutEngine
    chat: Chat
    viewer: Viewer
    mode: Mode
    rules: Rules
    tools: Mapping[str, Tool]
    seed: int = 0
    instruction: str = ""
    own: PromptRules = PromptRules(longest=1 << 30)  # noqa: RUF009  (frozen)
    truncate: bool = True
    captions: bool = False
    generator: Generator | None = None
    append_answer: bool = False

    @property
    def prompting(self) -> Prompting:
        """How rows of data become prompts here, and demonstrations."""
        return Prompting(self.chat, self.viewer, self.own, self.instruction)

    @property
    def further_tools(self) -> tuple[str, ...]:
        """Those whose tags the parser does not know by itself."""
        return tuple(name for name in self.mode.actions if name not in ACTIONS)


@dataclass(frozen=True)
class Start:
    """The prompt of one row of data, encoded once for all its samples."""

    uid: str
    record: Record
    ids: tuple[int, ...]
    views: tuple[View, ...]
    problem: str = ""
    target_ids: tuple[int, ...] = ()  # what the assistant says first in the demonstration

    def plan(self, prefix: PrefixSettings, step: int, samples: int, limit: int) -> PrefixPlan:
        """How much of the demonstration each sample goes on from."""
        tokens = len(self.target_ids)
        return make_plan(prefix, step=step, prompt=self.uid, samples=samples, target_tokens=tokens, limit=limit)


def encoded(kit: Kit, uid: str, record: Record) -> Start:
    """The prompt as the policy gets it; one that cannot be encoded says why, and ends as `bad_prompt`."""
    try:
        made, views = kit.prompting.made(record), kit.prompting.views(record.images)
    except UserError as error:
        LOG.warning("prompt %s: %s", uid, error)
        return Start(uid, record, (), (), str(error))
    first = tuple(
        token for token, _ in takewhile(itemgetter(1), zip(made.target_ids, made.target_trained, strict=True))
    )
    return Start(uid, record, made.ids, views, target_ids=first)


def seed_of(*parts: object) -> int:
    """A seed below 2^31 from whatever names the draw.

    >>> seed_of(0, 1, "7", 0, 1) == seed_of(0, 1, "7", 0, 1), seed_of(0, 1, "7", 0, 1) == seed_of(0, 1, "7", 1, 1)
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


class Episode:
    """One trajectory of one prompt."""

    def __init__(
        self, kit: Kit, start: Start, sample: int, sampling: Sampling, step: int, prefix: PrefixRow | None = None
    ) -> None:
        self.kit, self.start, self.sample = kit, start, sample
        self._sampling, self._step = sampling, step
        self._builder = Builder(start.uid, sample)
        self._builder.prompt(start.ids, start.views)
        self._templates = Templates(kit.chat, kit.captions)
        self._pending: Observation | None = None
        self._outcome = Outcome("nothing")
        self._queries: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._answer: str | None = None
        self._began = time.monotonic()
        self.state = State()
        self.effect: Effect = Finish("bad_prompt")
        if start.problem:
            self.state = State(Phase.DONE, finish="bad_prompt")
            return
        given = start.target_ids[: prefix.prefix_tokens] if prefix else ()
        self._builder.prefix(given)
        visual = sum(view.tokens for view in start.views)
        whole = prefix is not None and prefix.complete
        self._told(Prompted(len(start.ids), len(start.views), visual, len(given), whole))

    @property
    def done(self) -> bool:
        """Whether there is nothing more to do."""
        return isinstance(self.effect, Finish)

    def _told(self, event: Event) -> None:
        self.state, self.effect = advance(self.state, event, self.kit.rules)

    async def perform(self) -> None:
        """Does the next thing."""
        match self.effect:
            case Generate(max_tokens):
                event: Event = await self._sampled(max_tokens)
            case Use():
                event = await self._used(self.effect)
            case Observe():
                event = self._measured(self.effect)
            case Write():
                event = await self._written()
            case Finish():
                return
        self._told(event)

    async def _sampled(self, max_tokens: int) -> Event:
        if self._pending is not None:
            seen = self._pending
            self._builder.observe(seen.ids, seen.images, seen.pages)
            self._counts["observation_tokens"] += len(seen.ids)
            self._pending = None
        kit, builder = self.kit, self._builder
        seed = seed_of(kit.seed, self._step, builder.uid, self.sample, self.state.turn + 1)
        prompt = Prompt(collapsed(builder.ids, kit.chat.marks.image_pad), tuple(view.image for view in builder.images))
        asked = replace(self._sampling, n=1, max_tokens=max_tokens, seed=seed)
        began = time.monotonic()
        try:
            (said,) = await asyncio.wrap_future(kit.engine.submit(prompt, asked, key=f"{builder.uid}/{self.sample}"))
        except Exception as error:  # not the policy's doing: counted, and asked again where that may help
            if isinstance(error, HptError) and not isinstance(error, EngineDiedError | RequestRefusedError):
                raise  # the run's own fault, such as an engine that sleeps: every trajectory would meet it
            LOG.warning("engine: %s: %s", type(error).__name__, error)
            self._counts["engine_failures"] += 1
            return Broke(refused=isinstance(error, RequestRefusedError))
        taken = time.monotonic() - began
        self._seconds["generate_s"] += taken
        if said.finish == "abort":
            self._counts["engine_failures"] += 1
            return Broke()
        return self._parsed(said.ids, said.logp, said.versions, said.finish, taken)

    def _parsed(
        self, ids: Sequence[int], logp: Sequence[float], versions: Sequence[str], finish: str, taken: float
    ) -> Said:
        kit, action, length = self.kit, None, len(ids)
        if kit.mode.actions:
            cut = cut_after_action(ids, kit.chat.text, kit.chat.ends, tools=kit.further_tools, truncate=kit.truncate)
            action, length = cut.action, cut.length
            self._counts["multi_action"] += cut.more
        self._builder.turn(ids[:length], logp[:length], versions[:length])
        # A turn that is complete is one, also where the engine ran into its limit behind it.
        stopped = finish == "stop" or (action is not None and kit.truncate)
        usable = (
            action is not None
            and action.name in kit.mode.actions
            and (action.name not in ACTIONS or can_be_done(action))
        )
        name, body = (action.name, action.body) if action and usable else ("", "")
        note = TurnNote(kit.chat.text(ids[:length]), name, body, num_tokens=length, generate_s=taken)
        self._builder.notes.append(note)
        self._counts["valid_actions"] += usable
        return Said(length, stopped, action, usable)

    async def _used(self, use: Use) -> Event:
        action, began = use.action, time.monotonic()
        self._counts[action.name] += 1
        if action.name == "search":
            words = action.body.casefold()
            self._counts["repeated_queries"] += self._queries[words] > 0
            self._queries[words] += 1
        row, builder = self.start.record, self._builder
        scene = Scene(tuple(builder.images), row.extra, row.index, tuple(builder.retrieved))
        try:
            self._outcome = await self.kit.tools[action.name].use(action.body, scene)
        except Exception as error:  # another package's tool may raise anything; it is not the policy's doing
            LOG.warning("tool %s: %s: %s", action.name, type(error).__name__, error)
            self._outcome = Outcome("failed", why=type(error).__name__)
        kind, taken = self._outcome.kind, time.monotonic() - began
        self._seconds["tool_s"] += taken
        self._counts["no_new_result"] += kind == "nothing"
        self._counts["infra_events"] += kind == "failed"
        if kind == "invalid":
            self._counts["valid_actions"] -= 1
        self._noted(outcome=self._outcome.why or kind, pages=self._outcome.pages, tool_s=taken)
        return Used(kind)

    def _measured(self, wanted: Observe) -> Measured:
        last = LAST_TURN if self.kit.mode.ending == "answer" else LAST_SEARCH
        hint, ended = last if wanted.hint else "", self._builder.ids[-1] == self.kit.chat.marks.im_end
        made, outcome = self._templates, self._outcome
        if wanted.kind == "invalid":
            seen = made.help(self.kit.mode.actions, ended, hint)
        elif wanted.kind != "shown":
            gone = UNAVAILABLE.format(tool=self._builder.notes[-1].action)
            seen = made.text(NO_NEW_RESULT if wanted.kind == "nothing" else gone, ended, hint)
        elif outcome.views:
            seen = made.images(outcome.views, ended, hint, outcome.pages)
        else:
            seen = replace(made.text(harmless(outcome.text), ended, hint), pages=outcome.pages)
        self._pending = seen
        return Measured(len(seen.ids), len(seen.images), seen.visual_tokens, time.monotonic() - self._began)

    async def _written(self) -> Wrote:
        assert self.kit.generator is not None
        began = time.monotonic()
        question = self.start.record.question.replace("<image>", "").strip()
        self._answer = await self.kit.generator.answer(question, self._builder.images)
        self._seconds["generator_s"] += time.monotonic() - began
        if self._answer is not None and self.kit.append_answer:
            self._builder.observe(self.kit.chat.ids(f"<answer>{harmless(self._answer)}</answer>"))
        return Wrote(self._answer is not None)

    def _noted(self, **more: Any) -> None:
        self._builder.notes[-1] = replace(self._builder.notes[-1], **more)

    def freeze(self) -> Trajectory:
        """The trajectory; only when done."""
        counts = {name: float(count) for name, count in self._counts.items() if count}
        counts |= {"turns": float(self.state.turn), "invalid": float(self.state.invalid)}
        counts["visual_tokens"] = float(sum(view.tokens for view in self._builder.images))
        seconds = dict(self._seconds) | {"total_s": time.monotonic() - self._began}
        return self._builder.freeze(self.state.finish, self._answer, counts, seconds)
