"""Trajectories grow by appending, and collapse and expand without loss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.data.record import Message, Record
from hpt_megatron.rollout.agent.views import View
from hpt_megatron.rollout.to_sample import sample_of
from hpt_megatron.rollout.trajectory import Builder, collapsed
from hpt_megatron.rollout.trajectory_file import append, line_of

pytestmark = pytest.mark.fast
PAD = 7


def view(page="deck/1", grid=(1, 4, 4)):
    return View(page, (0, 0, 56, 56), (56, 56), grid, None)


def built():
    builder = Builder("uid", 2)
    builder.prompt([1, PAD, PAD, 2], [view("", (1, 2, 4))])
    builder.turn([5, 6], [-0.5, -0.25], ["1", "1"])
    builder.observe([3, PAD, PAD, PAD, PAD, 4], [view()], ["deck/1"])
    builder.turn([8], [-1.0], ["2"])
    return builder


def test_every_token_knows_who_made_it():
    done = built().freeze("answered")
    assert done.ids == (1, 7, 7, 2, 5, 6, 3, 7, 7, 7, 7, 4, 8)
    assert done.loss_mask == (0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1)
    assert done.turn_id == (-1, -1, -1, -1, 1, 1, -2, -2, -2, -2, -2, -2, 2)
    assert done.rollout_logprobs == (0.0, 0.0, 0.0, 0.0, -0.5, -0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    assert done.versions == ("", "", "", "", "1", "1", "", "", "", "", "", "", "2")
    assert (done.num_prompt, done.num_response, done.num_sampled) == (4, 9, 3)
    assert done.response_mask == (1, 1, 0, 0, 0, 0, 0, 0, 1)
    assert done.grids == [(1, 2, 4), (1, 4, 4)]
    assert done.shows_what_it_says(PAD)
    assert not done.shows_what_it_says(4)


def test_what_does_not_belong_together_is_refused():
    builder = built()
    with pytest.raises(ValueError, match="2 ids, 1 log-probabilities and 2 versions"):
        builder.turn([1, 2], [0.0], ["1", "1"])
    with pytest.raises(ValueError, match="before the first turn"):
        builder.prompt([1])


def test_only_trajectories_that_the_policy_made_are_valid():
    assert built().freeze("length").valid
    assert not built().freeze("infra_error").valid
    assert not built().freeze("refused").valid
    assert not built().freeze("generator_error").valid
    empty = Builder("uid", 0)
    empty.prompt([1, 2])
    assert not empty.freeze("prompt_overflow").valid


@given(st.lists(st.tuples(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(1, 9)), max_size=6))
def test_what_is_collapsed_expands_to_what_it_was(parts):
    ids = [token for text, count in parts for token in [*text, *[PAD] * count]]
    short = collapsed(ids, PAD)
    assert short.count(PAD) == len(parts)
    counts = iter(count for _, count in parts)
    assert [token for one in short for token in [one] * (next(counts) if one == PAD else 1)] == ids
    assert collapsed(short, PAD) == short


def test_rewards_see_only_sampled_tokens_turn_by_turn():
    """D4: whatever the environment says, a reward never sees it."""
    words = {
        1: "<answer>Beijing</answer>",
        2: "?",
        3: "<answer>Paris</answer>",
        4: "",
        5: "<search>",
        6: "k07</search>",
    }
    words[8] = "<answer>4</answer>"
    record = Record(index="1", prompt=(Message("user", "<image>what ?"),), golds=("4",), reference=("deck/1",))
    seen = sample_of(built().freeze("answered"), record, lambda ids: "".join(words.get(i, "") for i in ids))
    assert seen.turns == ("<search>k07</search>", "<answer>4</answer>")
    assert (seen.answer, seen.question, seen.tokens) == ("4", "what ?", 3)


def test_the_answer_of_a_generator_counts_where_the_policy_gave_none():
    record = Record(index="1", prompt=(Message("user", "what ?"),))
    done = built().freeze("answered", answer="9")
    assert sample_of(done, record, lambda ids: "so").answer == "9"
    assert sample_of(done, record, lambda ids: "<answer>4</answer>").answer == "4"


def test_a_line_of_the_file_tells_masks_images_and_scores(tmp_path):
    done = built().freeze("answered", counters={"turns": 2.0})
    line = line_of(done, {"ndcg": 1.0, "total": 0.5}, step=3)
    assert line["tokens"] == {"all": 13, "prompt": 4, "sampled": 3, "observed": 6}
    assert (line["total"], line["components"], line["versions"], line["step"]) == (0.5, {"ndcg": 1.0}, ["1", "2"], 3)
    assert line["images"][1] == {"page": "deck/1", "region": [0, 0, 56, 56], "page_size": [56, 56], "grid": [1, 4, 4]}
    path = tmp_path / "samples" / "3.jsonl"
    append(path, [done], {("uid", 2): {"total": 1.0}})
    append(path, [done])
    assert path.read_text().count("\n") == 2
