"""What happens next in a trajectory: a table. Nothing here samples, searches, waits or looks at a clock.

    advance(state, event, rules) -> (state, effect)

`TABLE` is read from above; the first row of the state's phase and the event's kind whose condition holds is taken. An
effect is what the driver has to do; what came of it is the next event.

    INIT --Prompted--> GENERATE --Said--> TOOL --Used--> OBSERVE --Measured--> GENERATE ... --> DONE
                                  \\-------------------->/   a turn without an action
                                  \\--> WRITE --Wrote--> DONE      searcher: a frozen generator answers

Invariants
    1. At most `max_turns` turns may use tools; one more, the final turn, may not. The hint that says so stands in the
       observation before it.
    2. An observation is appended only if a turn can follow it, so the last token is one of the policy. A tool whose
       result could not be shown is not called.
    3. Every trajectory ends: each row either ends it or takes it to a phase further on, and turns, retries and invalid
       actions are counted.

Example:
    >>> state, effect = advance(State(), Prompted(tokens=10), Rules(actions=("search", "answer"), ending="answer"))
    >>> state.phase.name, effect
    ('GENERATE', Generate(max_tokens=1024))
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Literal, TypeAlias

from hpt_megatron.rewards.turns import Action


class Phase(Enum):
    """Where a trajectory stands: what it waits for."""

    INIT = auto()
    GENERATE = auto()
    TOOL = auto()
    OBSERVE = auto()
    WRITE = auto()
    DONE = auto()


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Budgets and choices; tokens are counted expanded. 0 visual tokens or seconds: no limit."""

    actions: tuple[str, ...] = ()
    ending: str = ""
    max_turns: int = 5
    final_turn: bool = True
    max_new_tokens_per_turn: int = 1024
    min_new_tokens: int = 1
    max_prompt_tokens: int = 1 << 30
    max_response_tokens: int = 1 << 30
    max_model_len: int = 1 << 30
    max_images: int = 1 << 30
    max_visual_tokens: int = 0
    invalid_limit: int = 3
    wall_time_s: float = 0.0
    retries: int = 2
    on_failure: Literal["observe", "abort"] = "observe"
    on_complete_false: Literal["terminate", "invalid"] = "terminate"
    generator: bool = False


@dataclass(frozen=True)
class State:
    """What is known of a trajectory besides its tokens."""

    phase: Phase = Phase.INIT
    turn: int = 0
    final: bool = False  # the coming or current turn has no tools
    invalid: int = 0
    retries: int = 0
    prompt: int = 0
    tokens: int = 0  # of the whole sequence
    images: int = 0
    visual: int = 0
    finish: str = ""


# What can happen.


@dataclass(frozen=True)
class Prompted:
    """The prompt is encoded. `prefix`: tokens of the response that are given; `whole`: all of them are."""

    tokens: int
    images: int = 0
    visual: int = 0
    prefix: int = 0
    whole: bool = False


@dataclass(frozen=True)
class Said:
    """A turn was sampled. `usable`: its action can be carried out; `stopped`: it ended before its tokens did."""

    tokens: int
    stopped: bool
    action: Action | None = None
    usable: bool = False


@dataclass(frozen=True)
class Broke:
    """The engine failed or was stopped; `refused`: this request is one that it does not begin."""

    refused: bool = False


@dataclass(frozen=True)
class Used:
    """A tool answered."""

    outcome: Literal["shown", "nothing", "invalid", "failed"]


@dataclass(frozen=True)
class Measured:
    """What the observation that was asked for would add, and how long the trajectory has taken."""

    tokens: int
    images: int = 0
    visual: int = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Wrote:
    """The frozen generator answered, or failed."""

    ok: bool


Event: TypeAlias = Prompted | Said | Broke | Used | Measured | Wrote

# What is to be done.


@dataclass(frozen=True)
class Generate:
    """Append the observation that was measured, if there is one, and sample a turn."""

    max_tokens: int


@dataclass(frozen=True)
class Use:
    """Call a tool."""

    action: Action


@dataclass(frozen=True)
class Observe:
    """Make an observation and measure it; `hint`: say that the coming turn is the last."""

    kind: Literal["shown", "nothing", "invalid", "failed"]
    hint: bool


@dataclass(frozen=True)
class Write:
    """Ask the frozen generator."""


@dataclass(frozen=True)
class Finish:
    """Nothing more."""

    reason: str


Effect: TypeAlias = Generate | Use | Observe | Write | Finish
Step: TypeAlias = tuple[State, Effect]
Condition: TypeAlias = Callable[[State, Any, Rules], bool]
Act: TypeAlias = Callable[[State, Any, Rules], Step]


def room(state: State, rules: Rules, more: int = 0) -> int:
    """Tokens that a turn may have after `more` others."""
    tokens = state.tokens + more
    left = min(rules.max_model_len - tokens, rules.max_response_tokens - (tokens - state.prompt))
    return min(rules.max_new_tokens_per_turn, left)


def last_with_tools(state: State, rules: Rules) -> bool:
    """Whether the turn just taken was the last that may use a tool."""
    return state.turn >= rules.max_turns


def nothing_follows(state: State, said: Said, rules: Rules) -> bool:
    """After this turn no other could see an observation."""
    return state.final or (last_with_tools(state, rules) and not rules.final_turn)


def may_act(state: State, said: Said, rules: Rules) -> bool:
    """The turn asks for a tool of the mode, in a form that can be carried out."""
    return said.usable and said.action is not None and said.action.name in rules.actions


def completes(state: State, said: Said, rules: Rules) -> bool:
    """The search is complete: it says true, or something else that counts as it."""
    if said.action is None or said.action.name != "search_complete" or rules.ending != "search_complete":
        return False
    return said.usable or rules.on_complete_false == "terminate"


def answers(state: State, said: Said, rules: Rules) -> bool:
    """The turn is an answer, and an answer ends this mode."""
    return rules.ending == "answer" and said.action is not None and said.action.name == "answer"


def too_many_invalid(state: State, event: Any, rules: Rules) -> bool:
    """One more invalid action is more than the limit."""
    return state.invalid + 1 > rules.invalid_limit


def too_many_images(state: State, new: Measured | Prompted, rules: Rules) -> bool:
    """More images, or more visual tokens, than the budget."""
    images, visual = state.images + new.images, state.visual + new.visual
    return rules.max_images < images or 0 < rules.max_visual_tokens < visual


def finish(reason: str) -> Act:
    """Ends the trajectory."""
    return lambda state, event, rules: (replace(state, phase=Phase.DONE, finish=reason), Finish(reason))


def observe(kind: Literal["shown", "nothing", "invalid", "failed"]) -> Act:
    """Asks for an observation."""

    def act(state: State, event: Any, rules: Rules) -> Step:
        invalid = state.invalid + (kind == "invalid")
        return replace(state, phase=Phase.OBSERVE, invalid=invalid), Observe(kind, last_with_tools(state, rules))

    return act


def start(state: State, new: Prompted, rules: Rules) -> Step:
    """The first turn."""
    tokens = new.tokens + new.prefix
    state = replace(state, prompt=new.tokens, tokens=tokens, images=new.images, visual=new.visual)
    return replace(state, phase=Phase.GENERATE), Generate(room(state, rules))


def again(state: State, event: Any, rules: Rules) -> Step:
    """The same turn once more."""
    return replace(state, retries=state.retries + 1), Generate(room(state, rules))


def use(state: State, said: Said, rules: Rules) -> Step:
    """Calls the tool that the turn asks for."""
    assert said.action is not None
    return replace(state, phase=Phase.TOOL), Use(said.action)


def write(state: State, event: Any, rules: Rules) -> Step:
    """Hands over to the generator."""
    return replace(state, phase=Phase.WRITE), Write()


def go_on(state: State, new: Measured, rules: Rules) -> Step:
    """The next turn, behind an observation that fits."""
    counted = replace(
        state,
        phase=Phase.GENERATE,
        tokens=state.tokens + new.tokens,
        images=state.images + new.images,
        visual=state.visual + new.visual,
        final=last_with_tools(state, rules),
        retries=0,
    )
    return counted, Generate(room(counted, rules))


def no_room(state: State, new: Prompted, rules: Rules) -> bool:
    """Behind the prompt, and the start of the response that is given, nothing can be sampled."""
    in_all = new.tokens + new.prefix + rules.min_new_tokens > rules.max_model_len
    return in_all or new.prefix + rules.min_new_tokens > rules.max_response_tokens


def always(state: State, event: Any, rules: Rules) -> bool:
    """The last row of its kind."""
    return True


# phase, event, condition, what then
TABLE: tuple[tuple[Phase, type, Condition, Act], ...] = (
    (Phase.INIT, Prompted, lambda s, e, r: e.tokens > r.max_prompt_tokens, finish("prompt_overflow")),
    (Phase.INIT, Prompted, lambda s, e, r: e.whole, finish("target")),
    (Phase.INIT, Prompted, no_room, finish("context_overflow")),
    (Phase.INIT, Prompted, too_many_images, finish("image_limit")),
    (Phase.INIT, Prompted, always, start),
    (Phase.GENERATE, Broke, lambda s, e, r: e.refused, finish("refused")),
    (Phase.GENERATE, Broke, lambda s, e, r: s.retries >= r.retries, finish("infra_error")),
    (Phase.GENERATE, Broke, always, again),
    (Phase.GENERATE, Said, lambda s, e, r: not e.stopped, finish("length")),
    (Phase.GENERATE, Said, lambda s, e, r: not r.actions, finish("stop")),
    (Phase.GENERATE, Said, answers, finish("answered")),
    (Phase.GENERATE, Said, lambda s, e, r: r.generator and completes(s, e, r), write),
    (Phase.GENERATE, Said, completes, finish("search_complete")),
    (Phase.GENERATE, Said, nothing_follows, finish("max_turns")),
    (Phase.GENERATE, Said, may_act, use),
    (Phase.GENERATE, Said, too_many_invalid, finish("invalid_limit")),
    (Phase.GENERATE, Said, always, observe("invalid")),
    (Phase.TOOL, Used, lambda s, e, r: e.outcome == "failed" and r.on_failure == "abort", finish("infra_error")),
    (Phase.TOOL, Used, lambda s, e, r: e.outcome == "failed", observe("failed")),
    (Phase.TOOL, Used, lambda s, e, r: e.outcome == "nothing", observe("nothing")),
    (Phase.TOOL, Used, lambda s, e, r: e.outcome == "shown", observe("shown")),
    (Phase.TOOL, Used, too_many_invalid, finish("invalid_limit")),
    (Phase.TOOL, Used, always, observe("invalid")),
    (Phase.OBSERVE, Measured, lambda s, e, r: 0 < r.wall_time_s < e.elapsed_s, finish("wall_time")),
    (Phase.OBSERVE, Measured, too_many_images, finish("image_limit")),
    (Phase.OBSERVE, Measured, lambda s, e, r: room(s, r, e.tokens) < r.min_new_tokens, finish("obs_overflow")),
    (Phase.OBSERVE, Measured, always, go_on),
    (Phase.WRITE, Wrote, lambda s, e, r: e.ok, finish("answered")),
    (Phase.WRITE, Wrote, always, finish("generator_error")),
)


def advance(state: State, event: Event, rules: Rules) -> Step:
    """The one step there is."""
    if isinstance(event, Said):
        state = replace(state, turn=state.turn + 1, tokens=state.tokens + event.tokens)
    for phase, kind, holds, act in TABLE:
        if phase is state.phase and isinstance(event, kind) and holds(state, event, rules):
            return act(state, event, rules)
    raise ValueError(f"a trajectory in phase {state.phase.name} takes no {type(event).__name__}")
