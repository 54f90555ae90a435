"""The tiny tokenizer through the real `tokenizers` library, and the template through real Jinja."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment
from tokenizers import Tokenizer

from hpt_megatron.embedded import vocabulary
from hpt_megatron.embedded.folder import tiny_model
from hpt_megatron.embedded.template import CHAT_TEMPLATE

TINY = tiny_model()
pytestmark = pytest.mark.fast
TOKENIZER = Tokenizer.from_str(json.dumps(vocabulary.tokenizer_json()))
IDS = vocabulary.token_ids()
QWEN = {  # the ids of Qwen's tokenizer
    **{name: 151643 + place for place, name in enumerate(vocabulary.SPECIAL)},
    "<tool_call>": 151657,
    "</tool_call>": 151658,
}
PIECES = st.sampled_from([*IDS, *vocabulary.WORDS, " ", "  ", "\n", "k071", "e\u0301", "\u00e9", "\U0001f600", "\x00"])


def spelled(text: str) -> list[str]:
    return TOKENIZER.encode(text).tokens


@given(st.one_of(st.text(), st.lists(PIECES).map("".join)))
def test_any_text_comes_back_exactly(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


@given(st.lists(PIECES).map("".join), st.sampled_from(vocabulary.SPECIAL), st.lists(PIECES).map("".join))
def test_encoding_piece_by_piece_around_a_special_token_is_encoding_the_whole(left, special, right):
    whole = TOKENIZER.encode(left + special + right).ids
    assert whole == [*TOKENIZER.encode(left).ids, IDS[special], *TOKENIZER.encode(right).ids]


def test_every_byte_has_its_value_as_id():
    assert TOKENIZER.encode("A7 \n").ids == [65, 55, 32, 10]
    assert TOKENIZER.encode("\u00e9").ids == list("\u00e9".encode())
    assert [len(vocabulary.byte_letters()), len(set(vocabulary.byte_letters()))] == [256, 256]


def test_every_word_with_and_without_a_space_is_one_token():
    for word in vocabulary.WORDS:
        assert len(spelled(word)) == 1
        assert spelled(f"x: {word}") == ["x", ":", f"\u0120{word}"]
    assert len({*vocabulary.WORDS}) == len(vocabulary.WORDS)


def test_every_key_is_one_token_and_its_neighbours_are_not_torn():
    for key in vocabulary.KEYS:
        assert spelled(key) == [key]
        assert spelled(f"value {key} ?")[-4:] == ["\u0120", key, "\u0120", "?"]
    assert spelled("k071") == ["k", "0", "7", "1"]
    assert spelled("ak07") == ["a", "k", "0", "7"]


def test_every_digit_of_a_number_is_a_token():
    assert spelled("1024") == ["1", "0", "2", "4"]
    assert spelled("[0,28]") == ["[", "0", ",", "2", "8", "]"]


def test_every_action_tag_is_one_ordinary_token():
    for name in vocabulary.ACTIONS:
        ids = TOKENIZER.encode(f"<{name}>red</{name}>").ids
        assert len(ids) == 3
        assert TOKENIZER.decode(ids, skip_special_tokens=True) == f"<{name}>red</{name}>"


def test_every_special_token_has_qwens_name_and_neither_qwens_id_nor_its_offsets():
    special = {
        token["content"]: token["id"] for token in vocabulary.tokenizer_json()["added_tokens"] if token["special"]
    }
    assert set(special) == set(vocabulary.SPECIAL)
    assert not set(IDS.values()) & set(QWEN.values())
    for first, second in (("<|vision_start|>", "<|image_pad|>"), ("<|im_start|>", "<|im_end|>")):
        assert special[second] - special[first] != QWEN[second] - QWEN[first]
    assert TOKENIZER.decode(list(special.values()), skip_special_tokens=True) == ""


def test_padding_is_not_id_0():
    assert IDS[vocabulary.PADDING] != 0


def test_the_matrix_has_rows_that_no_token_owns():
    assert sorted(IDS.values()) == list(range(len(IDS)))
    assert len(IDS) < TINY.vocab_size


def rendered(messages: list, *, trim: bool = False, prompt: bool = False) -> str:
    environment = Environment(trim_blocks=trim, lstrip_blocks=trim)
    return environment.from_string(CHAT_TEMPLATE).render(messages=messages, add_generation_prompt=prompt)


@pytest.mark.parametrize("trim", [False, True])
def test_a_conversation_renders_as_qwens_template_does(trim):
    """Expected texts are written out by hand after Qwen's format; its own template is not at hand to compare."""
    user = {"role": "user", "content": "count ?"}
    default = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    turn = "<|im_start|>user\ncount ?<|im_end|>\n"
    assert rendered([user], trim=trim) == default + turn
    assert rendered([user], trim=trim, prompt=True) == default + turn + "<|im_start|>assistant\n"
    own = {"role": "system", "content": "  Be brief.\n"}
    assert rendered([own, user], trim=trim) == "<|im_start|>system\n  Be brief.\n<|im_end|>\n" + turn
    answer = {"role": "assistant", "content": [{"type": "text", "text": "<answer>7</answer>"}]}
    said = "<|im_start|>assistant\n<answer>7</answer><|im_end|>\n"
    assert rendered([user, answer, user], trim=trim) == default + turn + said + turn


@pytest.mark.parametrize("trim", [False, True])
def test_images_and_videos_stand_where_they_are_given(trim):
    image, video = "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
    parts = [
        *(
            {"type": "image", "image": "a.png"},
            {"type": "text", "text": " then "},
            {"type": "image_url", "image_url": {}},
        ),
        *({"type": "image"}, {"type": "video"}, {"type": "text", "text": "?"}),
    ]
    said = rendered([{"role": "system", "content": "S"}, {"role": "user", "content": parts}], trim=trim)
    expected = f"<|im_start|>user\n{image} then {image}{image}{video}?<|im_end|>\n"
    assert said == "<|im_start|>system\nS<|im_end|>\n" + expected
