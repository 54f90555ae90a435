"""Rollouts that go on from the start of their demonstration: what is given and sampled, how it is judged and trained.

A script plays the model; the plans, the agent and the rows are real. That the engine goes on from given ids is
`tests/engines/test_engine_role.py`'s.
"""

import pytest
from lookup_world import SAMPLING, SMALL, Scripted, kit_of

from hpt_megatron.algorithms.prefix import PrefixSettings
from hpt_megatron.data.record import Message, Record, Source
from hpt_megatron.errors import UserError
from hpt_megatron.rollout.agent.collect import Agent
from hpt_megatron.rollout.agent.metrics import metrics
from hpt_megatron.rollout.to_rows import to_rows
from hpt_megatron.rollout.to_sample import sample_of

TARGET = "<think>3+5</think><answer>8</answer>"
HALF = PrefixSettings(strategy="fixed", n_prefix=2, min_ratio=0.0, max_ratio=0.5)
BROKEN = Record(index="9", prompt=(Message("user", "<image>"),), images=(Source(data=b"no"),))
RECORD = Record(index="7", prompt=(Message("user", "sum ?"),), target=(Message("assistant", TARGET),), golds=("8",))


def collected(chat, prefix, record=RECORD, says=" 8</answer>", **rules):
    engine = Scripted(chat, lambda uid, sample, turn, seed: says)
    with Agent(kit_of(chat, engine, mode="single_turn", **rules), None) as agent:
        return agent.collect([("7", record)], SAMPLING, samples=3, prefix=prefix)[0], engine


def test_the_engine_goes_on_from_the_given_start_and_masks_say_who_said_what(chat):
    group, engine = collected(chat, HALF)
    target = [*chat.ids(TARGET), chat.marks.im_end]
    prompt = chat.prompt(RECORD.prompt, [])
    given = int(len(target) * 0.5)
    assert [sum(one.prefix_mask) for one in group] == [0, given, 0]
    half = group[1]
    asked = next(prompt for key, prompt, _ in engine.asked if key == "7/1")
    assert list(asked.ids) == prompt + target[:given]
    sampled = [*chat.ids(" 8</answer>"), chat.marks.im_end]
    assert list(half.ids) == prompt + target[:given] + sampled
    assert half.loss_mask == (0,) * (len(prompt) + given) + (1,) * len(sampled)
    assert half.turn_id == (-1,) * len(prompt) + (1,) * (given + len(sampled))
    assert half.num_prompt == len(prompt)
    assert half.num_sampled == len(sampled)


def test_a_response_is_judged_whole_and_only_what_was_sampled_is_counted(chat):
    seen = sample_of(collected(chat, HALF)[0][1], RECORD, chat.text)
    assert seen.turns == (chat.text([*chat.ids(TARGET)][: (len(chat.ids(TARGET)) + 1) // 2]) + " 8</answer>",)
    assert seen.turns[0].startswith("<think>")
    assert seen.tokens == len(chat.ids(" 8</answer>")) + 1


def test_given_tokens_are_off_and_trained_and_a_whole_demonstration_is_a_row_of_its_own_kind(chat):
    luffy = PrefixSettings(strategy="random", n_prefix=1, min_ratio=1.0, max_ratio=1.0)
    group, engine = collected(chat, luffy)
    assert [key for key, _, _ in engine.asked] == ["7/1", "7/2"], "nothing is asked where nothing is left"
    assert [one.finish for one in group] == ["target", "stop", "stop"]
    assert all(one.valid for one in group)
    rows = to_rows([*group, collected(chat, HALF)[0][1]], [0, 0, 0, 0], SMALL, chat.marks.image_pad).batch.rows
    assert rows.fields["off"].tolist() == [True, False, False, False]
    for place, given in ((0, len(chat.ids(TARGET)) + 1), (1, 0), (3, (len(chat.ids(TARGET)) + 1) // 2)):
        own = rows.row_of_token == place
        off, trained, response = (rows.tokens[name][own] for name in ("off", "trained", "response"))
        assert int(off.sum()) == given
        assert bool((trained == response).all())
        assert not rows.tokens["logp"][own][off].any()


def test_a_start_that_leaves_no_room_is_not_sampled(chat):
    """In the response it is cut to the room that there is, and is then all of it; in the model's context it ends."""
    cut = collected(chat, HALF, says="8", max_response_tokens=4)[0][1]
    assert (cut.finish, sum(cut.prefix_mask), cut.num_sampled) == ("target", 4, 0)
    group, engine = collected(chat, HALF, says="8", max_model_len=len(chat.prompt(RECORD.prompt, [])) + 4)
    assert [one.finish for one in group] == ["stop", "context_overflow", "stop"]
    assert [key for key, _, _ in engine.asked] == ["7/0", "7/2"]
    assert not group[1].valid


def test_a_steps_log_counts_what_was_given(chat):
    rows = [("7", RECORD), ("8", Record(index="8", prompt=RECORD.prompt)), ("9", BROKEN)]
    with Agent(kit_of(chat, Scripted(chat, lambda *_: "8"), mode="single_turn"), None) as agent:
        done = [one for group in agent.collect(rows, SAMPLING, samples=3, prefix=HALF) for one in group]
        told = metrics(done, prefixes=agent.prefix_counts)
        given = (len(chat.ids(TARGET)) + 1) // 2
        assert {name: value for name, value in told.items() if name.startswith("prefix/")} == {
            "prefix/rows": 1.0,
            "prefix/tokens": float(given),
            "prefix/complete": 0.0,
            "prefix/cut": 0.0,
            "prefix/without_target": 1.0,
        }
        agent.collect(rows[:1], SAMPLING, samples=1)
        assert agent.prefix_counts == {}


def test_without_a_target_nothing_is_given(chat):
    group, _ = collected(chat, HALF, Record(index="7", prompt=RECORD.prompt))
    assert not any(sum(one.prefix_mask) for one in group)


def test_an_agent_of_several_turns_takes_no_prefix(chat):
    agent = Agent(kit_of(chat, Scripted(chat, None), mode="vrag"), None)
    with agent, pytest.raises(UserError, match="start of a single response"):
        agent.collect([("7", RECORD)], SAMPLING, samples=2, prefix=HALF)
