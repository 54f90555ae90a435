"""Records become prompts; rows are taken and removed. Not covered: how a target that is too long is cut."""

import io

import pytest
from PIL import Image

from hpt_megatron.data.files import write_rows
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.prompts import PromptRules, Prompts, make_prompt
from hpt_megatron.data.record import IMAGE, Message, Record, Source
from hpt_megatron.data.rlhf_dataset import RLHFDatasetWithTarget
from hpt_megatron.errors import UserError


def png(width, height):
    held = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(held, "PNG")
    return Source(data=held.getvalue())


def row(index, question="count ?", target=None, images=(), **fields):
    said = (Message("assistant", target),) if isinstance(target, str) else target
    return Record(index=index, prompt=(Message("user", question),), target=said, images=images, **fields)


@pytest.fixture(scope="module")
def rules(tiny):
    return PictureRules.of_folder(tiny)


def test_a_prompt_is_followed_by_its_target_as_in_one_conversation(chat, rules):
    target = (Message("assistant", "<search>k07</search>"), Message("user", IMAGE), Message("assistant", "4"))
    record = row("a", f"{IMAGE}value ?", target, (png(56, 56),), target_images=(png(84, 56),))
    prompt = make_prompt(record, chat, rules, PromptRules(longest=100))
    assert (prompt.sizes, prompt.target_sizes) == (((56, 56),), ((84, 56),))
    assert prompt.ids.count(chat.marks.image_pad) == 4
    assert prompt.target_ids.count(chat.marks.image_pad) == 6
    whole, trained = chat.conversation([*record.prompt, *target], [4, 6])
    assert [*prompt.ids, *prompt.target_ids, *chat.ids("\n")] == whole
    assert prompt.target_trained == tuple(trained[len(prompt.ids) : -1])
    said = [token for token, mask in zip(prompt.target_ids, prompt.target_trained, strict=True) if mask]
    assert chat.text(said, special=True) == "<search>k07</search><|im_end|>4<|im_end|>"


def test_a_target_does_not_say_again_what_the_prompt_ends_with(chat, rules):
    think = PromptRules(longest=100, response_prefix="<think>\n")
    for target in ("<think>\nso</think>4", "so</think>4"):
        prompt = make_prompt(row("a", target=target), chat, rules, think)
        assert chat.text(prompt.ids).endswith("assistant\n<think>\n")
        assert chat.text(prompt.target_ids) == "so</think>4"
    plain = make_prompt(row("a", target="<think>\nso</think>4"), chat, rules, PromptRules(longest=100))
    assert chat.text(plain.target_ids) == "<think>\nso</think>4"
    assert plain.target_ids[-1] == chat.marks.im_end


def test_the_system_message_of_the_data_can_be_left_out_and_a_suffix_added(chat, rules):
    record = Record(index="a", prompt=(Message("system", "Long."), Message("user", "x")))
    assert "Long." in chat.text(make_prompt(record, chat, rules, PromptRules(longest=100)).ids)
    own = PromptRules(longest=100, drop_system=True, suffix=" think")
    text = chat.text(make_prompt(record, chat, rules, own).ids)
    assert text == "system\nYou are a helpful assistant.\nuser\nx think\nassistant\n"


def test_what_does_not_fit_is_left_out_and_counted(chat, rules):
    records = [row("a"), row("b", "x" * 90), row("c", target="4" * 30), row("d", IMAGE, images=(Source(data=b"no"),))]
    records += [row("e", IMAGE, images=(png(224, 224),)), row("f", IMAGE, images=(png(4, 4000),))]
    prompts = Prompts.of(records, chat, rules, PromptRules(longest=64, longest_target=20))
    assert prompts.names == ["a", "c"]
    counted = {"rows": 6, "too_long": 2, "broken": 2, "without_target": 1, "target_too_long": 1}
    assert prompts.report == counted
    assert [problem.where for problem in prompts.problems] == ["row b", "row d", "row e", "row f"]
    assert "is not an image" in prompts.problems[1].what


def test_rows_are_got_by_chance_and_keep_their_own_golds(chat, rules, caplog):
    prompts = Prompts.of([row(str(i), golds=(str(i),)) for i in range(8)], chat, rules, PromptRules(longest=64))
    got = prompts.random_get(5, seed=3)
    assert len({prompt.index for prompt in got}) == 5
    assert all(prompt.record.golds == (prompt.index,) for prompt in got)
    assert [prompt.index for prompt in prompts.random_get(5, seed=3)] == [prompt.index for prompt in got]
    assert len(prompts.random_get(99, seed=0)) == 8
    assert "99 prompts were asked for, there are 8" in caplog.text
    for number in (0, -1):
        with pytest.raises(UserError, match="ask for 1 or more"):
            prompts.random_get(number, seed=0)


def test_rows_are_removed_once_by_place_or_by_name_and_stay_removed(chat, rules):
    records = [row(str(i)) for i in range(5)]
    prompts = Prompts.of(records, chat, rules, PromptRules(longest=64))
    assert prompts.remove_data([]) == 0
    assert prompts.remove_data([1, 1, 99, -1, "4", "unknown"]) == 2
    assert prompts.names == ["0", "2", "3"]
    assert prompts.remove_data([1, "4"]) == 1  # the place is among those that are left
    assert (prompts.names, len(prompts)) == (["0", "3"], 2)
    again = Prompts.of(records, chat, rules, PromptRules(longest=64))
    again.restore(prompts.state())
    assert again.names == ["0", "3"]
    assert again.names is again.names  # going through all by place is not quadratic


def test_the_face_of_the_released_code_gives_its_columns(chat, tiny, tmp_path):
    said = [{"role": "assistant", "content": "1 2 3 4 5 6"}]
    rows = [{"prompt": "1+1 ?", "target": said, "index": i, "reward_model": {"ground_truth": "2"}} for i in range(4)]
    write_rows(tmp_path / "a.parquet", rows)
    data = RLHFDatasetWithTarget(str(tmp_path / "a.parquet"), tiny, max_prompt_length=64, max_prefix_len=5)
    item = data[2]
    assert len(item["input_ids"]) == len(item["attention_mask"]) == 64
    assert sum(item["attention_mask"]) == len(data.prompts["2"].ids)
    assert item["tgt_input_ids"] == [*chat.ids("1 2 3"), chat.marks.im_end]
    assert (item["index"], item["id"], item["item"]) == ("2", "2", 2)
    assert item["reward_model"]["ground_truth"] == "2"
    data.remove_data([0, 77])
    assert (len(data), data[0]["index"]) == (3, "1")
    assert {item["index"] for item in data.random_get(9)} == {"1", "2", "3"}
