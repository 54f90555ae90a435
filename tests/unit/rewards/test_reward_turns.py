"""What the format accepts, and that nothing of an observation earns anything."""

import pytest
from reward_seven import RETRIEVAL

from hpt_megatron.rewards.component import Sample, policy_turns
from hpt_megatron.rewards.tool_use import ToolUse
from hpt_megatron.rewards.turns import Action, Format, final_answer, first_action

pytestmark = pytest.mark.fast

SEARCH, ANSWER = "<search>fox</search>", "<answer>4</answer>"


def faults(*turns, **settings):
    result = Format(**settings).score(Sample(turns=turns))
    assert (result.score == 1.0) == (not result.flags)
    return result.flags


def test_the_leftmost_complete_action_counts():
    assert first_action(f"{SEARCH}{ANSWER}") == Action("search", "fox")
    assert first_action(f"<search>{ANSWER}") == Action("answer", "4")
    assert first_action("<answer>a<search>b</search></answer>") == Action("answer", "a<search>b</search>")
    assert first_action("</answer><answer>x") is None
    assert first_action("<search> a \n b </search>") == Action("search", "a b")
    assert final_answer([SEARCH, ANSWER]) == "4"
    assert final_answer([ANSWER, SEARCH]) is None
    assert final_answer([]) is None


def test_well_formed_trajectories_and_each_fault():
    assert faults(SEARCH, "<think>so</think>" + ANSWER) == ()
    assert faults("<search_complete>True</search_complete>") == ()
    assert faults("<bbox>[1, 2.5, 30, 40]</bbox>", ANSWER) == ()
    assert faults() == ("no_turn",)
    assert faults(SEARCH) == ("no_end",)
    assert faults(ANSWER, ANSWER) == ("early_end",)
    assert faults(SEARCH + ANSWER) == ("bad_tags",)
    assert faults("<answer><think>x</think>4</answer>") == ("bad_tags",)
    assert faults("<search> </search>", ANSWER) == ("bad_body",)
    assert faults(ANSWER, think="first_turn") == ("no_think",)
    assert faults("<think>x</think>" + SEARCH, ANSWER, think="first_turn") == ()
    assert faults("<think>x</think>" + SEARCH, ANSWER, think="every_turn") == ("no_think",)
    assert faults(f"so {ANSWER}") == ()
    for loose in (f"so {ANSWER}", f"{ANSWER} so", f"<think>a</think> so {ANSWER}"):
        assert faults(loose, strict=True) == ("text_outside_tags",)
    assert faults(f" <think>a</think>\n{ANSWER}\n", strict=True) == ()


@pytest.mark.parametrize(
    "box",
    [
        "",
        "[1,2,3]",
        "[1,2,3,NaN]",
        "[1,2,3,1e999]",
        "[1,2,3,true]",
        '["1",2,3,4]',
        "[" * 150,
        "1",
        "[1,2,3,4]" + " " * 200 + "]",
    ],
)
def test_a_box_is_four_finite_numbers(box):
    assert faults(f"<bbox>{box}</bbox>", ANSWER) == ("bad_body",)


def test_a_graded_format_is_the_share_of_good_turns():
    turns = (SEARCH, "oops", "<search></search>", ANSWER)
    assert Format(graded=True).score(Sample(turns=turns)).score == 0.5
    assert Format().score(Sample(turns=turns)).score == 0.0


def test_an_invalid_actions_help_text_earns_nothing():
    """The reference reward ran its pattern over the whole decoded conversation, so help with example tags passed it."""
    words = ["question", "no idea", "use <search> query </search> or <answer> Beijing </answer>", "still none", "<end>"]
    turns = policy_turns(range(5), loss_mask=[0, 1, 0, 1, 0], turn_id=[-1, 1, -2, 2, 2])
    texts = tuple("".join(words[i] for i in turn) for turn in turns)
    assert texts == ("no idea", "still none")
    assert final_answer(texts) is None
    sample = Sample(turns=texts, answer=final_answer(texts), golds=("Beijing",), retrieved=("a",), reference=("a",))
    scored = RETRIEVAL.score(sample)
    assert (scored.total, scored.success, scored.gated) == (0.0, False, ("format",))
    assert ToolUse().score(sample).score == 0.0


def test_a_turn_is_cut_out_by_its_mask_however_the_ids_lie():
    assert policy_turns([1, 2, 3, 4], [1, 1, 1, 0], [-1, 2, 1, 1]) == [[3], [2]]
    with pytest.raises(ValueError, match="zip"):
        policy_turns([1, 2], [1], [1, 1])


def test_tools_are_paid_only_with_a_right_answer():
    turns = (SEARCH, SEARCH, "<bbox>[0,0,9,9]</bbox>", "<search></search>", ANSWER)
    right, wrong = (Sample(turns=turns, answer="4", golds=(gold,)) for gold in ("4", "5"))
    assert ToolUse(bonus=0.5).score(right).score == 0.5
    assert ToolUse(bonus=0.5).score(wrong).score == 0.0
    assert ToolUse().score(Sample(turns=(ANSWER,), answer="4", golds=("4",))).score == 0.0
    priced = ToolUse(free=1, price=0.25).score(wrong)
    assert (priced.score, priced.details) == (-0.25, {"tools": 3.0, "searches": 2.0})
    assert ToolUse(free=0, price=9.0, most=0.5).score(wrong).score == -0.5


def test_a_further_tool_of_the_run_is_used_and_well_formed():
    turns = ("<calculator>1 + 1</calculator>", "<answer>2</answer>")
    sample = Sample(turns=turns, answer="2", golds=("2",))
    assert (ToolUse().score(sample).score, ToolUse(tools=("calculator",)).score(sample).score) == (0.0, 1.0)
    empty = Sample(turns=("<calculator> </calculator>", turns[1]), answer="2", golds=("2",))
    assert ToolUse(tools=("calculator",)).score(empty).score == 0.0
    assert faults(*turns) == ("bad_tags",)
    assert faults(*turns, tools=("calculator",)) == ()
