"""A checkpoint without a vision tower: text rows are prompts, and an image is refused in words."""

import json

import pytest

from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.prompts import PromptRules, Prompts
from hpt_megatron.data.record import IMAGE, Message, Record
from hpt_megatron.data.tasks.make import records
from hpt_megatron.embedded.text_folder import write_text_model
from hpt_megatron.errors import UserError


@pytest.fixture(params=["qwen2_5", "llama3_1"])
def folder(tmp_path, request):
    return write_text_model(tmp_path / "text", request.param)


def test_a_row_of_text_is_a_prompt_and_one_with_an_image_is_left_out_with_the_reason(folder):
    chat, rules = Chat.open(folder), PictureRules.of_folder(folder)
    text = Record(index="a", prompt=(Message("user", "1+1 ?"),))
    seen = records("count", "train", 1, 0)[0]
    assert seen.prompt[0].content.startswith(IMAGE)
    prompts = Prompts.of([text, seen], chat, rules, PromptRules(longest=128))
    assert prompts.names == ["a"]
    assert prompts["a"].ids == tuple(chat.prompt(text.prompt, []))
    (problem,) = prompts.problems
    assert "an image: the model sees none" in problem.what


def test_a_folder_that_says_nothing_of_its_model_still_needs_a_processor(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vision_config": {}}))
    with pytest.raises(UserError, match=r"holds no preprocessor_config\.json"):
        PictureRules.of_folder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"holds no preprocessor_config\.json"):
        PictureRules.of_folder(folder)
