"""The tiny model's tokens: every byte, the words of the embedded tasks, and Qwen's special tokens under other ids.

Nothing is trained, so nothing depends on an order of counting: a word of the list is one token, with a space before it
or without; everything else is spelled in bytes. That is a BPE model without merges: `ignore_merges` takes a piece of
text that stands in the vocabulary as it is.

Invariants:
    1. Any text is encoded and decodes back exactly. There is no normaliser (Qwen's composes accents, so it does not).
    2. The id of a byte is its value; digits are bytes, so each is one token and a number is as many as it has digits.
    3. Special tokens have Qwen's names; no id is Qwen's, nor is the order, so no offset between two of them holds.
    4. Actions are one token each here. In Qwen's tokenizer most are several: nothing may assume one.

Example:
    >>> token_ids()["A"], token_ids()["<|image_pad|>"] == 151655
    (65, False)
"""

from typing import Any

COLOURS = "red green blue yellow orange purple white black pink brown cyan gray"
TASKS = (
    "color count dot dots cell cells grid row column digit digits sum value page key image box border texture square"
    " how many what which is are the a in of and to then so next no not new one left right top bottom first last total"
    " find read list look search crop zoom answer think result invalid action"
)
CHAT = "system user assistant You helpful"
WORDS = tuple(f"{COLOURS} {TASKS} {CHAT}".split())
KEYS = tuple(f"k{number:02d}" for number in range(64))
ACTIONS = ("think", "search", "bbox", "answer", "search_complete", "tool_call")
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
END_OF_TURN, PADDING = "<|im_end|>", "<|endoftext|>"

# A key is a piece of its own; a word takes one space before it along. What matches neither is spelled in bytes.
KEY = r"k[0-9]{2}(?![0-9])"
PIECE = rf"{KEY}| ?(?!{KEY})[A-Za-z]+"


def byte_letters() -> list[str]:
    """The printable letter that byte-level tokenizers write for each byte, by value."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(value if value in printable else next(others)) for value in range(256)]


def spelled_tokens() -> list[str]:
    """The tokens of the BPE model in the order of their ids, written in byte letters."""
    letters = byte_letters()
    texts = [text for word in WORDS for text in (word, f" {word}")] + list(KEYS)
    spelled = ["".join(letters[byte] for byte in text.encode()) for text in texts]
    return [*letters, *(text for text in spelled if len(text) > 1)]  # "a" is a byte already


def added_tokens() -> list[tuple[str, bool]]:
    """The tokens that are found before any splitting, in the order of their ids, and whether each is special."""
    actions = [(tag, False) for name in ACTIONS for tag in (f"<{name}>", f"</{name}>")]
    return actions + [(name, True) for name in sorted(SPECIAL)]


def token_ids() -> dict[str, int]:
    """The id of every token, by its written form."""
    return {text: number for number, text in enumerate([*spelled_tokens(), *(text for text, _ in added_tokens())])}


def tokenizer_json() -> dict[str, Any]:
    """The content of `tokenizer.json`."""
    ids = token_ids()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PIECE}, "behavior": "Isolated", "invert": False}
    exact = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[text], "content": text, **exact, "special": special} for text, special in added_tokens()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {text: ids[text] for text in spelled_tokens()},
            "merges": [],
        },
    }


def tokenizer_config(max_length: int) -> dict[str, Any]:
    """The content of `tokenizer_config.json`."""
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TURN,
        "errors": "replace",
        "extra_special_tokens": [name for name in SPECIAL if name not in (END_OF_TURN, PADDING)],
        "model_max_length": max_length,
        "pad_token": PADDING,
        "split_special_tokens": False,
        # Not Qwen2Tokenizer: that class brings Qwen's own splitting and composing along.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
