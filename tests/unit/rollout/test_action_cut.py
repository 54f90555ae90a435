"""The cut behind an action, for tokens that are cut in any way."""

import random

import pytest

from hpt_megatron.rewards.turns import first_action
from hpt_megatron.rollout.agent.parsing import cut_after_action

pytestmark = pytest.mark.fast
END = "<end>"


def split(text, draw):
    """Pieces of random lengths, as a tokenizer could make them."""
    pieces = []
    while text:
        size = draw.randint(1, 9)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def cut(pieces, **more):
    def text(ids):
        return "".join(pieces[i] for i in ids if pieces[i] != END)

    ends = {i for i, piece in enumerate(pieces) if piece == END}
    return cut_after_action(list(range(len(pieces))), text, ends, **more)


def test_the_turn_ends_with_the_token_that_completes_the_tag():
    pieces = ["<sear", "ch>k07", "</se", "arch> an", "d so", END]
    found = cut(pieces)
    assert (found.length, found.action.body, found.more) == (4, "k07", False)


def test_an_end_of_turn_right_behind_the_tag_stays_and_one_further_on_goes():
    assert cut(["<answer>", "4", "</answer>", END]).length == 4
    assert cut(["<answer>", "4", "</answer>", "\n", END]).length == 3


def test_without_an_action_or_without_cutting_everything_stays():
    assert cut(["so", " it", END]).length == 3
    kept = cut(["<answer>4</answer>", " so", END], truncate=False)
    assert (kept.length, kept.action.name) == (3, "answer")


def test_a_second_action_is_left_out_and_counted():
    found = cut(["<search>a</search>", "<answer>b</answer>", END])
    assert (found.length, found.action.name, found.more) == (1, "search", True)


def test_a_further_tool_is_an_action_only_where_it_is_named():
    pieces = ["<calculator>", "1+1", "</calculator>", "<answer>2</answer>"]
    assert cut(pieces).action.name == "answer"
    found = cut(pieces, tools=("calculator",))
    assert (found.action.name, found.action.body, found.length) == ("calculator", "1+1", 3)


def test_the_cut_has_the_action_of_the_whole_turn_for_ten_thousand_adversarial_turns():
    parts = ["<search>", "</search>", "<answer>", "</answer>", "<bbox>", "</bbox>", "<think>", "</think>", "[1,2,3,4]"]
    parts += ["<search_complete>true</search_complete>", "<sear", ">", "<", " k07 ", "\n", "\u00e9", "<answer", "</"]
    draw = random.Random(0)
    with_action = 0
    for _ in range(10_000):
        text = "".join(draw.choices(parts, k=draw.randint(0, 12)))
        pieces = split(text, draw)
        found, whole = cut(pieces), first_action(text)
        assert found.action == whole
        assert first_action("".join(pieces[: found.length])) == whole
        if whole is not None:
            with_action += 1
            assert first_action("".join(pieces[: found.length - 1])) != whole, "cut one token too late"
    assert with_action > 2000
