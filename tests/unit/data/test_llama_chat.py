"""Llama's form of a conversation, held against its template. Not covered: Llama's own tokenizer, which is not here."""

import shutil

import pytest

from hpt_megatron.data.chat import Chat
from hpt_megatron.data.chat_form import ABSENT
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.prompts import PromptRules, make_prompt
from hpt_megatron.data.record import IMAGE, Message, Record
from hpt_megatron.embedded.text_folder import write_text_model
from hpt_megatron.errors import UserError

DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
TALK = [("user", " 1+1 ?\n"), ("assistant", "\n<answer>2</answer> "), ("user", "and\nthen <|eot_id|> ?")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_model(tmp_path_factory.mktemp("llama") / "m", "llama3_1")


@pytest.fixture(scope="module")
def llama(folder):
    return Chat.open(folder)


def messages(*pairs):
    return [Message(role, text) for role, text in pairs]


def test_a_prompt_is_the_text_of_the_template(llama):
    text = llama.text(llama.prompt(messages(("user", " 1+1 ?\n")), []), special=True)
    assert text == (
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{DATES}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n1+1 ?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    given = llama.text(llama.prompt(messages(("system", " Be brief.\n"), ("user", "a")), []), special=True)
    assert f"system<|end_header_id|>\n\n{DATES}Be brief.<|eot_id|>" in given


@pytest.mark.parametrize("said", [TALK, [("system", "S"), *TALK], TALK[:1]])
def test_a_conversation_has_the_ids_of_the_whole_rendered_text(llama, folder, said):
    from transformers import AutoTokenizer

    clean = [(role, text.replace("<|eot_id|>", "it")) for role, text in said]
    turns = [{"role": role, "content": text} for role, text in clean]
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert llama.prompt(messages(*clean), []) == llama.ids(whole, special=True)


def test_only_what_the_assistant_said_is_trained_and_a_mark_in_a_text_stays_text(llama):
    ids, trained = llama.conversation(messages(*TALK), [])
    end = llama.marks.im_end
    said = [token for token, mask in zip(ids, trained, strict=True) if mask]
    assert said == [*llama.ids("<answer>2</answer>"), end]
    assert ids.count(end) == 4
    assert ids[-1] == end


def test_a_target_ends_with_the_end_of_the_turn(llama, folder):
    record = Record(index="a", prompt=(Message("user", "1+1 ?"),), target=(Message("assistant", "<answer>2</answer>"),))
    made = make_prompt(record, llama, PictureRules.of_folder(folder), PromptRules(longest=200))
    assert list(made.target_ids) == [*llama.ids("<answer>2</answer>"), llama.marks.im_end]
    assert all(made.target_trained)


def test_marks_that_are_not_there_are_no_ids(llama):
    assert llama.marks.image_pad == ABSENT
    assert ABSENT not in llama.forbidden
    assert llama.marks.im_end in llama.ends
    assert not llama.forbidden & llama.ends
    assert len(llama.forbidden) == 3, "the beginning of a text, and both ends of a header"
    with pytest.raises(UserError, match="the model sees none"):
        llama.prompt(messages(("user", f"{IMAGE}what ?")), [4])


def test_another_template_of_headers_is_refused(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    path = other / "chat_template.jinja"
    template = path.read_text()
    path.write_text(template.replace("<|eot_id|>' -}}{%- endmacro", "\\n<|eot_id|>' -}}{%- endmacro"))
    assert path.read_text() != template
    with pytest.raises(UserError, match="is not Llama's"):
        Chat.open(other)
    path.write_text(
        template.replace("turn(message.role, message.content | trim)", "turn(message.role, message.content)")
    )
    with pytest.raises(UserError, match="not the one that is known"):
        Chat.open(other)
