"""The table of a trajectory: every row is taken by something, and every trajectory ends within its budgets."""

import random

import pytest

from hpt_megatron.rewards.turns import Action
from hpt_megatron.rollout.agent.machine import (
    TABLE,
    Broke,
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

pytestmark = pytest.mark.fast
VRAG = {"actions": ("search", "bbox", "answer"), "ending": "answer"}
SEARCHER = {"actions": ("search", "bbox", "search_complete"), "ending": "search_complete"}
ACTIONS = [Action("search", "a"), Action("bbox", "[]"), Action("answer", "4"), Action("search_complete", "true"), None]


def random_rules(draw):
    small = {
        "max_turns": draw.randint(1, 4),
        "final_turn": draw.random() < 0.5,
        "max_new_tokens_per_turn": draw.randint(1, 20),
        "max_prompt_tokens": draw.choice([8, 1000]),
        "max_response_tokens": draw.choice([0, 30, 1000]),
        "max_model_len": draw.choice([10, 60, 2000]),
        "max_images": draw.choice([0, 2, 99]),
        "max_visual_tokens": draw.choice([0, 10]),
        "invalid_limit": draw.randint(0, 2),
        "wall_time_s": draw.choice([0.0, 5.0]),
        "retries": draw.randint(0, 2),
        "on_failure": draw.choice(["observe", "abort"]),
        "on_complete_false": draw.choice(["terminate", "invalid"]),
        "generator": draw.random() < 0.5,
    }
    return Rules(**draw.choice([VRAG, SEARCHER, {}]), **small)


def answer_to(effect, draw):
    match effect:
        case Generate(most):
            assert most >= 1
            if draw.random() < 0.1:
                return Broke(refused=draw.random() < 0.2)
            action = draw.choice(ACTIONS)
            return Said(draw.randint(1, most), draw.random() < 0.9, action, action is not None and draw.random() < 0.8)
        case Use():
            return Used(draw.choice(["shown", "nothing", "invalid", "failed"]))
        case Observe():
            images = draw.randint(0, 1)
            return Measured(draw.randint(1, 15), images, 4 * images, draw.random() * 6)
        case Write():
            return Wrote(draw.random() < 0.5)


def test_every_row_is_reached_and_every_trajectory_ends_within_its_budgets():
    draw, taken = random.Random(0), set()
    for _ in range(6000):
        rules, state = random_rules(draw), State()
        given = draw.choice((0, 0, 2))
        event = Prompted(
            draw.randint(1, 12), images := draw.randint(0, 1), 4 * images, given, draw.random() < given / 8
        )
        for _ in range(60):
            before = state if not isinstance(event, Said) else None
            taken.add(row_of(state, event, rules))
            state, effect = advance(state, event, rules)
            assert before is None or before.turn == state.turn
            if isinstance(effect, Finish):
                break
            event = answer_to(effect, draw)
        assert (state.phase, state.finish) == (Phase.DONE, effect.reason)
        assert state.turn <= rules.max_turns + rules.final_turn
        assert state.tokens <= max(rules.max_model_len, state.prompt)
        assert state.tokens - state.prompt <= rules.max_response_tokens
        assert state.images <= max(rules.max_images, 0)
        assert state.invalid <= rules.invalid_limit
    missing = [i for i in range(len(TABLE)) if i not in taken]
    assert not missing, [TABLE[i][:2] for i in missing]


def row_of(state, event, rules):
    """The row that takes an event, found by which act is called."""
    from dataclasses import replace

    if isinstance(event, Said):
        state = replace(state, turn=state.turn + 1, tokens=state.tokens + event.tokens)
    for i, (phase, kind, holds, _) in enumerate(TABLE):
        if phase is state.phase and isinstance(event, kind) and holds(state, event, rules):
            return i
    raise AssertionError((state, event))


def test_an_event_that_a_phase_does_not_know_is_refused():
    with pytest.raises(ValueError, match="phase INIT takes no Used"):
        advance(State(), Used("shown"), Rules())


def play(rules, *events):
    state, effects = State(), []
    for event in events:
        state, effect = advance(state, event, rules)
        effects.append(effect)
    return state, effects


def test_one_search_then_an_answer():
    search, reply = Action("search", "a"), Action("answer", "4")
    state, effects = play(
        Rules(**VRAG, max_new_tokens_per_turn=10, max_model_len=60),
        *(Prompted(20), Said(5, True, search, True), Used("shown"), Measured(12, 1, 4), Said(9, True, reply, True)),
    )
    assert effects == [Generate(10), Use(search), Observe("shown", hint=False), Generate(10), Finish("answered")]
    assert (state.turn, state.tokens, state.images, state.visual) == (2, 46, 1, 4)


def test_what_is_left_of_the_context_bounds_the_next_turn():
    search = Action("search", "a")
    rules = Rules(**VRAG, max_new_tokens_per_turn=10, max_model_len=40)
    assert play(rules, Prompted(20), Said(5, True, search, True), Used("shown"), Measured(12))[1][-1] == Generate(3)
    assert play(rules, Prompted(20), Said(5, True, search, True), Used("shown"), Measured(15))[1][-1] == Finish(
        "obs_overflow"
    )


def test_d12_the_context_is_counted_in_expanded_tokens():
    """Fifteen visual tokens are fifteen, not one placeholder."""
    rules = Rules(**VRAG, max_model_len=40, max_new_tokens_per_turn=10)
    said = Said(5, True, Action("search", "a"), True)
    assert play(rules, Prompted(20), said, Used("shown"), Measured(6 + 15, 1, 15))[1][-1] == Finish("obs_overflow")
    assert play(rules, Prompted(20), said, Used("shown"), Measured(6 + 1, 1, 1))[1][-1] == Generate(8)
