"""Prompts in their order, taken ahead or held out; rollouts ahead of their step; what is kept of checkpoints."""

import threading
from dataclasses import replace

import pytest

from hpt_megatron.config.load import load_run
from hpt_megatron.data.build import hold_out
from hpt_megatron.data.prompts import Prompt, Prompts
from hpt_megatron.data.record import Message, Record
from hpt_megatron.data.samplers import Shuffled
from hpt_megatron.driver.loop.ahead import Ahead
from hpt_megatron.driver.loop.supply import Supply
from hpt_megatron.errors import UserError
from hpt_megatron.recipes.train import with_less


def prompts(count=12, without_target=()):
    held = {}
    for number in range(count):
        record = Record(index=f"p{number}", prompt=(Message("user", "?"),))
        held[record.index] = Prompt(record, (1,), (), () if number in without_target else (5, 9))
    return Prompts(held)


def supply(made=None):
    made = made or prompts()
    return Supply(made, Shuffled(made.names, 3))


def taken(some, count=4):
    return [prompt.index for prompt in some.take(count)]


def test_what_was_taken_ahead_comes_next_also_after_an_interruption():
    plain, ahead = supply(), supply()
    expected = [taken(plain) for _ in range(3)]
    assert taken(ahead) == expected[0]
    assert [prompt.index for prompt in ahead.take_ahead(4)] == expected[1]
    resumed = supply()
    resumed.restore(ahead.state())
    for some in (ahead, resumed):
        assert [prompt.index for prompt in some.take_ahead(4)] == expected[1], "asked again, it is the same"
        assert [taken(some), taken(some)] == expected[1:]


def test_what_is_held_out_is_never_trained_on_and_has_a_target():
    for seed in (1, 2):
        made = prompts(without_target=(0, 1, 2))
        held = [prompt.index for prompt in hold_out(made, 4, seed)]
        assert len(set(held)) == 4
        assert not {"p0", "p1", "p2"} & set(held)
        assert held == [prompt.index for prompt in hold_out(prompts(without_target=(0, 1, 2)), 4, seed)]
        some = supply(made)
        drawn = {name for _ in range(4) for name in taken(some)}
        assert drawn == {f"p{number}" for number in range(12)} - set(held)
    with pytest.raises(UserError, match="9 demonstrations are to be held out, and there are 12") as caught:
        hold_out(prompts(), 9, 1)
    assert caught.value.where == "data.hold_out"


def test_work_ahead_goes_on_beside_and_its_failure_is_told_by_its_result():
    ahead, gate = Ahead(), threading.Event()
    ahead.begin(lambda: gate.wait(10))
    assert ahead.begun
    gate.set()
    ahead.wait()
    assert ahead.result() is True
    assert not ahead.begun

    def fails():
        raise OSError("the engine is gone")

    ahead.begin(fails)
    ahead.wait()
    with pytest.raises(OSError, match="the engine is gone"):
        ahead.result()
    assert not ahead.begun


def test_less_memory_means_packs_of_half_the_tokens_but_never_less_than_a_row():
    run = load_run(["experiment=tiny-hpt", "trainer.ppo_max_token_len_per_gpu=300"])
    longest = run.data.max_prompt_length + run.data.max_response_length
    assert longest == 160
    less = with_less(run)
    assert less.trainer.ppo_max_token_len_per_gpu == longest
    assert with_less(replace(run, trainer=replace(run.trainer, ppo_max_token_len_per_gpu=1000))) == replace(
        run, trainer=replace(run.trainer, ppo_max_token_len_per_gpu=500)
    )
    with pytest.raises(UserError, match="out of memory with packs of 160 tokens, rows have up to 160"):
        with_less(less)
