"""Trajectories and demonstrations as rows for the trainer."""

import dataclasses

import pytest
import torch
from lookup_world import SAMPLING, SMALL, Scripted, inproc, kit_of, lookup, pixels, turns, write_corpus
from PIL import Image

from hpt_megatron.data.prompts import PromptRules
from hpt_megatron.data.record import Message, Record, Source
from hpt_megatron.protocol.rows import Rows
from hpt_megatron.rollout.agent.collect import Agent
from hpt_megatron.rollout.agent.prompting import Prompting
from hpt_megatron.rollout.agent.views import Viewer
from hpt_megatron.rollout.to_rows import demonstrations, to_rows

FIRST, SECOND = "<think>look</think><search>k07</search>", "<answer>4</answer>"


@pytest.fixture(scope="module")
def group(chat, tmp_path_factory):
    client = inproc(write_corpus(tmp_path_factory.mktemp("large"), size=(112, 112)))
    with Agent(kit_of(chat, Scripted(chat, turns(FIRST, SECOND)), client), client) as agent:
        picture = pixels(Image.new("RGB", (90, 90), "red"))
        record = Record(index="k07", prompt=(Message("user", "<image>value k07 ?"),), images=(picture,))
        return agent.collect([("7", record)], SAMPLING, 2)[0]


def test_rows_carry_masks_log_probabilities_and_images_once(chat, group):
    made = to_rows(group, [3, 3], SMALL, chat.marks.image_pad)
    rows, batch = made.batch.rows, made.batch
    length = len(group[0].ids)
    assert rows.lengths.tolist() == [length, length]
    assert rows.tokens["ids"][:length].tolist() == list(group[0].ids)
    assert rows.tokens["trained"][:length].int().tolist() == list(group[0].loss_mask)
    assert rows.tokens["response"][:length].int().sum() == group[0].num_response
    assert torch.equal(rows.tokens["logp"][:length], torch.tensor(group[0].rollout_logprobs))
    assert not rows.tokens["off"].any()
    assert (rows.fields["prompt"].tolist(), rows.fields["sample"].tolist()) == ([3, 3], [0, 1])
    assert rows.fields["valid"].tolist() == [True, True]
    assert batch.counts.tolist() == [2, 2]
    assert batch.shown_by(0) == batch.shown_by(1) == [0, 1]
    assert group[0].images[1].image is not group[1].images[1].image
    assert batch.images.grids.tolist() == [[1, 4, 4]] * 2


def test_a_row_whose_placeholders_are_wrong_or_that_has_no_turn_is_left_out_and_counted(chat, group):
    broken = dataclasses.replace(group[0], ids=(*group[0].ids[:-1], chat.marks.image_pad))
    empty = dataclasses.replace(group[0], loss_mask=(0,) * len(group[0].ids), finish="prompt_overflow")
    made = to_rows([broken, group[1], empty], [0, 0, 1], SMALL, chat.marks.image_pad)
    assert (made.kept, made.left_out) == ((1,), {"image_tokens": 1, "prompt_overflow": 1})
    assert made.batch.rows.num_rows == 1


def test_a_trajectory_that_a_failure_of_ours_ended_trains_nothing(chat, group):
    made = to_rows([dataclasses.replace(group[0], finish="infra_error")], [0], SMALL, chat.marks.image_pad)
    assert made.batch.rows.fields["valid"].tolist() == [False]
    assert not made.batch.rows.tokens["trained"].any()


def taught(*said, images=0):
    pages = tuple(pixels(Image.new("RGB", (56, 56), (i, 0, 0))) for i in range(images))
    return lookup("k07", target=said, target_images=pages)


def test_a_demonstration_of_several_turns_is_off_throughout_and_trained_on_the_assistant_alone(chat):
    record = taught(Message("assistant", FIRST), Message("user", "<image>"), Message("assistant", SECOND), images=1)
    made = demonstrations([record], [5], Prompting(chat, Viewer(SMALL)))
    rows = made.batch.rows
    ids, trained, off = (rows.tokens[name].tolist() for name in ("ids", "trained", "off"))
    before = len(chat.prompt(record.prompt, []))
    assert ids[:before] == chat.prompt(record.prompt, [])
    assert off == [False] * before + [True] * (len(ids) - before)
    assert rows.tokens["response"].tolist() == off
    taught_ids = [token for token, one in zip(ids, trained, strict=True) if one]
    end = chat.marks.im_end
    assert taught_ids == [*chat.ids(FIRST), end, *chat.ids(SECOND), end]
    assert (rows.fields["sample"].tolist(), rows.fields["off"].tolist()) == ([-1], [True])
    assert ids[-1] == end
    assert sorted(set(rows.tokens["turn"].tolist())) == [-2, -1, 1, 2]


def test_in_a_single_turn_what_is_off_is_what_is_trained(chat):
    rows = demonstrations([taught(Message("assistant", SECOND))], [0], Prompting(chat, Viewer(SMALL))).batch.rows
    assert torch.equal(rows.tokens["off"], rows.tokens["trained"])


def test_earlier_words_of_an_assistant_in_the_prompt_are_not_taught(chat):
    record = dataclasses.replace(
        taught(Message("assistant", SECOND)),
        prompt=(Message("user", "a"), Message("assistant", "b"), Message("user", "c")),
    )
    rows = demonstrations([record], [0], Prompting(chat, Viewer(SMALL))).batch.rows
    assert int(rows.tokens["trained"].sum()) == len(chat.ids(SECOND)) + 1


def test_targets_that_are_missing_or_too_long_are_left_out_and_counted(chat):
    made = demonstrations(
        [
            lookup("k01"),
            taught(Message("assistant", "so " * 50)),
            taught(Message("assistant", SECOND)),
            dataclasses.replace(taught(Message("user", "<image>")), target_images=(Source(data=b"no"),)),
        ],
        [0, 1, 2, 3],
        Prompting(chat, Viewer(SMALL)),
        max_tokens=20,
    )
    assert (made.kept, made.left_out) == ((2,), {"no_target": 1, "target_overflow": 1, "unreadable": 1})
    assert made.batch.rows.fields["prompt"].tolist() == [2]


def test_rollouts_and_demonstrations_join(chat, group):
    rollouts = to_rows(group, [0, 0], SMALL, chat.marks.image_pad).batch.rows
    shown = demonstrations([taught(Message("assistant", SECOND))], [0], Prompting(chat, Viewer(SMALL))).batch.rows
    assert Rows.concat([rollouts, shown]).num_rows == 3


def test_the_trainer_takes_these_rows(chat, group):
    """As its own check sees them: placeholders, grids, ids."""
    from hpt_megatron.embedded.folder import tiny_model
    from hpt_megatron.mcore.packing.positions import Placeholders
    from hpt_megatron.mcore.packing.problems import problems_of

    model = tiny_model()
    holders = Placeholders.of(model)
    assert holders.image == chat.marks.image_pad
    made = to_rows(group, [0, 0], SMALL, chat.marks.image_pad)
    shown = demonstrations([taught(Message("assistant", SECOND))], [0], Prompting(chat, Viewer(SMALL)))
    for batch in (made.batch, shown.batch):
        assert problems_of(batch, holders, 512, model.vocab_size) == []


def test_rollouts_and_demonstrations_have_the_same_prompt_with_all_that_the_run_adds_to_it(chat, group):
    """An instruction, words behind the question, the start of every response."""
    own = PromptRules(longest=999, suffix=" think", response_prefix="<think>", drop_system=True)
    prompting = Prompting(chat, Viewer(SMALL), own, "Look.\n{question}")
    record = dataclasses.replace(
        taught(Message("assistant", "<think>look</think><answer>4</answer>")),
        prompt=(Message("system", "s"), Message("user", "value ?")),
    )
    engine = Scripted(chat, turns("look</think><answer>4</answer>"))
    more = {"own": own, "instruction": prompting.instruction}
    with Agent(kit_of(chat, engine, inproc_nowhere(), more=more)) as agent:
        (done,) = agent.collect([("1", record)], SAMPLING, 1)[0]
    rows = demonstrations([record], [0], prompting).batch.rows
    assert rows.tokens["ids"].tolist() == list(done.ids)
    assert rows.tokens["trained"].tolist() == [bool(mask) for mask in done.loss_mask]
    asked = chat.text(done.ids[: done.num_prompt])
    assert asked == "system\nYou are a helpful assistant.\nuser\nLook.\nvalue ? think\nassistant\n<think>"


def inproc_nowhere():
    """No search is made."""
