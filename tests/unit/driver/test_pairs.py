"""Pairs of the data and of rollouts as rows; halves, ties, single answers, and responses of other prompts."""

import pytest
import torch

from hpt_megatron.config.load import load_run
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.prompts import Prompts
from hpt_megatron.data.record import Message, Record
from hpt_megatron.data.tasks.make import records
from hpt_megatron.driver.loop.pairs import mismatched, of_files, of_rollouts, pairs_of, rejected
from hpt_megatron.driver.loop.teacher import Teacher
from hpt_megatron.embedded.folder import write_tiny
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.rows import Rows

PAD_ID = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny model's folder."""
    path = tmp_path_factory.mktemp("pairs") / "model"
    write_tiny(path, seed=1)
    return str(path)


@pytest.fixture
def teacher(folder):
    return Teacher(load_run(["experiment=tiny-dpo"]), folder)


def prompts(folder, rows):
    from hpt_megatron.data.build import prompt_rules

    run = load_run(["experiment=tiny-dpo"])
    made = Prompts.of(rows, Chat.open(folder), PictureRules.of_folder(folder), prompt_rules(run.data))
    return [made[name] for name in made.names]


def answers(teacher, batch):
    """The trained text of every row."""
    ids = torch.split(batch.rows.tokens["ids"], batch.rows.lengths.tolist())
    masks = torch.split(batch.rows.tokens["trained"], batch.rows.lengths.tolist())
    return [teacher.prompting.chat.text(one[mask].tolist()) for one, mask in zip(ids, masks, strict=True)]


def test_both_answers_stand_behind_the_same_prompt(folder, teacher):
    rows = records("pref", "train", 6, 0)
    found = of_files(teacher, prompts(folder, rows))
    fields = found.batch.rows.fields
    assert fields["prompt"].tolist() == [*range(6), *range(6)]
    assert fields["preferred"].tolist() == [True] * 6 + [False] * 6
    told = answers(teacher, found.batch)
    for place, row in enumerate(rows):
        assert told[place].startswith(row.target_text)
        assert told[6 + place].startswith(row.extra["rejected"][0]["content"])
        shown = [found.batch.images.grid_list[each] for each in found.batch.shown_by(place)]
        assert shown == [found.batch.images.grid_list[each] for each in found.batch.shown_by(6 + place)]
        assert len(shown) == len(row.images)
    pairs = pairs_of(found.batch, paired=True)
    assert pairs.chosen.tolist() == list(range(6))
    assert pairs.rejected.tolist() == list(range(6, 12))
    assert found.domains == {place: row.extra["domain"] for place, row in enumerate(rows)}


def test_a_pair_of_which_one_side_is_too_long_is_left_out(folder, teacher):
    rows = records("pref", "train", 3, 0)
    long = {**rows[1].extra, "rejected": [{"role": "assistant", "content": "the color " * 40}]}
    rows[1] = Record(**{**vars(rows[1]), "extra": long})
    found = of_files(teacher, prompts(folder, rows))
    assert found.left_out == 1
    assert sorted(found.batch.rows.fields["prompt"].tolist()) == [0, 0, 2, 2]
    alone = of_files(teacher, prompts(folder, rows), alone=True)
    assert sorted(alone.batch.rows.fields["prompt"].tolist()) == [0, 0, 1, 2, 2], "a single answer is enough for kto"


def test_a_single_answer_may_be_a_good_or_a_bad_one():
    good = Record(index="a", prompt=(Message("user", "x"),), target=(Message("assistant", "y"),))
    bad = Record(index="b", prompt=good.prompt, target=good.target, extra={"label": False})
    assert rejected(good) is None
    assert rejected(bad).target == good.target
    assert rejected(bad).index != "b"


def test_margins_and_heads_come_along_and_an_unknown_head_is_named(folder, teacher):
    rows = [
        Record(**{**vars(row), "extra": {**row.extra, "margin": 0.5 * at, "head": ("safe", "helpful")[at % 2]}})
        for at, row in enumerate(records("pref", "train", 4, 0))
    ]
    found = of_files(teacher, prompts(folder, rows), heads=("helpful", "safe"))
    assert found.batch.rows.fields["head"].tolist() == [1, 0, 1, 0] * 2
    assert pairs_of(found.batch, paired=True).margin.tolist() == [0.0, 0.5, 1.0, 1.5]
    with pytest.raises(UserError, match=r"row train-1, head: a pair is about 'helpful'.*one of safe"):
        of_files(teacher, prompts(folder, rows), heads=("safe",))


def rollouts(scores, valid=None):
    """Three prompts' rollouts of two tokens each, with scores by prompt."""
    flat = [score for each in scores for score in each]
    count = len(flat)
    tokens = {"ids": [[1, 3 + at] for at in range(count)], "trained": [[0, 1]] * count, "response": [[0, 1]] * count}
    return Batch.of_text(
        Rows.from_lists(
            tokens,
            prompt=[place for place, each in enumerate(scores) for _ in each],
            sample=[at for each in scores for at in range(len(each))],
            score=flat,
            valid=valid or [True] * count,
        )
    )


def test_the_best_and_the_worst_rollout_make_a_pair_where_they_differ():
    records = [Record(index=name, prompt=(Message("user", name),)) for name in "abc"]
    batch = rollouts([[0.2, 0.9, 0.1], [0.5, 0.5, 0.5], [1.0, 0.0, 0.4]], [True] * 7 + [False, True])
    found = of_rollouts(batch, records, least_gap=0.0)
    assert found.batch.rows.fields["prompt"].tolist() == [0, 0, 2, 2]
    assert found.batch.rows.fields["sample"].tolist() == [1, 2, 0, 2], "the worst of the third was not valid"
    assert found.batch.rows.fields["preferred"].tolist() == [True, False, True, False]
    assert found.left_out == 1
    assert of_rollouts(batch, records, least_gap=0.7).left_out == 2


def test_each_prompt_gets_the_response_of_the_next_and_pictures_in_responses_stay():
    ids = [[10, 11, 20], [12, 21, 22], [13, PAD_ID, 23], [14, 24]]
    response = [[0, 0, 1], [0, 1, 1], [0, 1, 1], [0, 1]]
    rows = Rows.from_lists(
        {"ids": ids, "response": response, "trained": response}, prompt=[0, 1, 2, 3], sample=[-1] * 4
    )
    found = mismatched(Batch.of_text(rows), PAD_ID)
    made = torch.split(found.rows.tokens["ids"], found.rows.lengths.tolist())
    assert [each.tolist() for each in made] == [[10, 11, 21, 22], [12, 24], [14, 20]]
    assert found.rows.fields["prompt"].tolist() == [0, 1, 3]
    assert found.rows.tokens["trained"].tolist() == [False, False, True, True, False, True, False, True]
