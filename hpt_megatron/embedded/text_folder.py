"""The tiny model without its vision tower, as a folder of Qwen2.5 or of Llama 3.1: weights, tokenizer, template.

Decision: the vocabulary is the tiny model's. For Llama the special tokens have Llama's names; its template says what
Llama 3.1's says without tools: a system turn in any case, which begins with two dates, and trimmed contents.

Example:
    write_text_model("/data/tiny-llama", "llama3_1")
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from hpt_megatron.config.model import ModelConfig
from hpt_megatron.embedded.folder import tiny_files, tiny_model
from hpt_megatron.embedded.random_folder import write_random

Family = Literal["qwen2_5", "llama3_1"]
LLAMA = {
    "<|im_start|>": "<|start_header_id|>",
    "<|im_end|>": "<|eot_id|>",
    "<|endoftext|>": "<|end_of_text|>",
    "<|object_ref_start|>": "<|begin_of_text|>",
    "<|object_ref_end|>": "<|end_header_id|>",
    "<|vision_start|>": "<|reserved_special_token_0|>",
    "<|vision_end|>": "<|reserved_special_token_1|>",
    "<|vision_pad|>": "<|reserved_special_token_2|>",
    "<|image_pad|>": "<|reserved_special_token_3|>",
    "<|video_pad|>": "<|reserved_special_token_4|>",
}
DATES = "Cutting Knowledge Date: December 2023\\nToday Date: 26 Jul 2024\\n\\n"
LLAMA_TEMPLATE = (
    "{%- macro turn(role, text) -%}"
    "{{- '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' ~ text ~ '<|eot_id|>' -}}"
    "{%- endmacro -%}"
    "{%- set given = messages[0].role == 'system' -%}"
    "{{- '<|begin_of_text|>' -}}"
    f"{{{{- turn('system', '{DATES}' ~ (messages[0].content | trim if given else '')) -}}}}"
    "{%- for message in (messages[1:] if given else messages) -%}"
    "{{- turn(message.role, message.content | trim) -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}"
    "{%- endif -%}"
)


def text_model(family: Family) -> ModelConfig:
    """The tiny model's shape without a tower."""
    absent: dict[str, Any] = dict.fromkeys(("vision", "mrope_section", "image_token_id", "video_token_id"))
    return replace(tiny_model(), family=family, attention_bias=family != "llama3_1", **absent)


def write_text_model(folder: str | Path, family: Family, seed: int = 0) -> Path:
    """Writes the folder."""
    made = write_random(text_model(family), folder, seed)
    files = tiny_files(seed)
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        text = files[name].decode()
        if family == "llama3_1":
            for ours, theirs in LLAMA.items():
                text = text.replace(json.dumps(ours)[1:-1], theirs)
        (made / name).write_text(text, encoding="utf-8")
    if family == "llama3_1":
        (made / "chat_template.jinja").write_text(LLAMA_TEMPLATE, encoding="utf-8")
    return made
