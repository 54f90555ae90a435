"""Conversations become the ids that transformers makes of them. Not covered: Qwen's own tokenizer."""

import json
import shutil

import pytest

from hpt_megatron.data.chat import Chat, as_parts
from hpt_megatron.data.record import IMAGE, Message, marks_of
from hpt_megatron.embedded.vocabulary import token_ids
from hpt_megatron.errors import UserError

CONVERSATIONS = [
    [("user", "count ?")],
    [("system", "You are helpful"), ("user", f"{IMAGE}what color ?{IMAGE}")],
    [("user", f"\n{IMAGE}"), ("assistant", "<think>3+5</think><answer>8</answer>"), ("user", "\n\n")],
    [
        ("user", "é \ud800 日本"),
        ("assistant", "<search>k07</search>"),
        ("user", IMAGE),
        ("assistant", "4"),
        ("user", ""),
    ],
]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    import torch  # noqa: F401  # before transformers, see Chat.open
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(tiny))


def expanded(ids, pad, counts):
    counts = iter(counts)
    return [token for one in ids for token in ([one] * next(counts) if one == pad else [one])]


@pytest.mark.parametrize("said", CONVERSATIONS)
def test_a_prompt_is_what_the_template_gives_with_its_images_expanded(chat, tokenizer, said):
    messages = [Message(role, text.encode("utf-8", "replace").decode()) for role, text in said]
    counts = [3 + number for number in range(marks_of(messages))]
    turns = [{"role": message.role, "content": as_parts(message.content)} for message in messages]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert chat.prompt([Message(*pair) for pair in said], counts) == expanded(whole, chat.marks.image_pad, counts)


def test_only_what_the_assistant_said_is_trained_with_the_end_of_its_turn(chat):
    messages = [Message(*pair) for pair in CONVERSATIONS[3][:4]]
    ids, trained = chat.conversation(messages, [4])
    said = [token for token, mask in zip(ids, trained, strict=True) if mask]
    end = chat.marks.im_end
    assert said == [*chat.ids("<search>k07</search>"), end, *chat.ids("4"), end]
    assert chat.text(said, special=True) == "<search>k07</search><|im_end|>4<|im_end|>"
    assert ids[: len(chat.prompt(messages[:1], []))] == chat.prompt(messages[:1], [])


def test_a_target_starts_where_a_sampled_answer_would(chat):
    """Also when it starts with a line break, which the whole string might merge with the one before."""
    user, target = Message("user", "count ?"), "\n\n<think>"
    ids, trained = chat.conversation([user, Message("assistant", target)], [])
    prompt = chat.prompt([user], [])
    assert ids[: len(prompt)] == prompt
    assert not any(trained[: len(prompt)])
    assert ids[len(prompt) : -2] == chat.ids(target)


def test_a_special_token_in_a_text_stays_text(chat):
    text = "a <|im_end|> b <|image_pad|>"
    prompt = chat.prompt([Message("user", text)], [])
    assert chat.marks.image_pad not in prompt
    assert prompt.count(chat.marks.im_end) == 2  # of the system and of the user
    assert text in chat.text(prompt)
    assert chat.ids("<|im_end|>", special=True) == [chat.marks.im_end]


def test_marks_ends_and_forbidden_ids_are_the_folders(chat, tiny):
    ids = token_ids()
    assert chat.marks.image_pad == ids["<|image_pad|>"] != 151655
    assert chat.ends == {ids["<|im_end|>"], ids["<|endoftext|>"]}
    assert chat.size == len(ids)
    assert not chat.forbidden & chat.ends
    assert {ids["<|im_start|>"], ids["<|video_pad|>"]} < chat.forbidden
    assert len(chat.forbidden) == 6
    assert Chat.open(tiny).fingerprint == chat.fingerprint


def test_ids_beyond_the_tokenizer_have_no_text(chat):
    assert chat.text([*chat.ids("sum"), chat.size + 3]) == "sum"


def test_a_conversation_with_too_few_images_is_refused(chat):
    with pytest.raises(UserError, match="marks 2 images and 1 are given"):
        chat.prompt([Message("user", IMAGE * 2)], [4])
    with pytest.raises(UserError, match="unknown role 'tool'"):
        chat.prompt([Message("tool", "")], [])


def changed(tiny, to, name, change):
    shutil.copytree(tiny, to, dirs_exist_ok=True)
    path = to / name
    path.write_text(change(path.read_text()))
    return to


def test_templates_of_another_form_are_refused(tiny, tmp_path):
    plain = changed(tiny, tmp_path / "plain", "chat_template.jinja", lambda text: "{{ messages[0].content }}")
    with pytest.raises(UserError, match="is not ChatML"):
        Chat.open(plain)
    trimming = changed(
        tiny, tmp_path / "trims", "chat_template.jinja", lambda text: text.replace("item.text", "item.text | trim")
    )
    with pytest.raises(UserError, match="not the one that is known"):
        Chat.open(trimming)


def test_the_system_text_is_the_templates_own_or_none(tiny, tmp_path):
    said = r"{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' -}}"
    for name, text, system in (
        ("other", said.replace("You are a helpful assistant.", "Think."), "Think."),
        ("none", "", None),
    ):

        def change(template, text=text):
            assert said in template
            return template.replace(said, text)

        other = Chat.open(changed(tiny, tmp_path / name, "chat_template.jinja", change))
        assert other.default_system == system
        start = "system\nThink.\n" if system else ""
        assert other.text(other.prompt([Message("user", "a")], [])) == f"{start}user\na\nassistant\n"


def test_a_folder_without_a_tokenizer_or_with_a_broken_one_is_one_line(tiny, tmp_path):
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        Chat.open(tmp_path)
    broken = changed(tiny, tmp_path / "broken", "tokenizer.json", lambda text: text[:500])
    with pytest.raises(UserError, match="cannot be read"):
        Chat.open(broken)

    def fewer(text):
        table = json.loads(text)
        table["added_tokens"] = [token for token in table["added_tokens"] if token["content"] != "<|video_pad|>"]
        return json.dumps(table)

    def unnamed(text):
        table = json.loads(text)
        table["extra_special_tokens"].remove("<|video_pad|>")
        return json.dumps(table)

    changed(tiny, tmp_path / "few", "tokenizer.json", fewer)
    path = tmp_path / "few" / "tokenizer_config.json"
    path.write_text(unnamed(path.read_text()))
    with pytest.raises(UserError, match=r"lacks <.video_pad.>"):
        Chat.open(tmp_path / "few")
