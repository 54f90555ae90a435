"""What a model reads while AWQ watches its activations: the user's prompts, or tokens drawn from the tokenizer.

    {"prompt": "What does the table on page 3 say?", "images": ["page-3.png"]}

One JSON object in a line; `images` may be left out, and is relative to the file. Prompts go through the chat template
where there is one. Without a file, 64 rows of 64 tokens are drawn, none of them special: the same rows each time for
one tokenizer, but no language, so a model that will be used deserves prompts of its own.

Invariants
    1. Every bad line is named at once, before a model is loaded.
    2. Images are opened, and nothing else of the file is: no network, no code.

Example:
    >>> drawn([5, 6, 7], rows=1, length=4)[0]["input_ids"].shape
    torch.Size([1, 4])
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer

from hpt_megatron.errors import UserError
from hpt_megatron.weights.survey import refuse

ROWS, LENGTH, SEED = 64, 64, 0
Inputs = dict[str, Tensor]
"""What a forward pass takes, by name."""


@dataclass(frozen=True)
class Prompt:
    """One line of the file."""

    text: str
    images: tuple[Path, ...] = ()


def read_prompts(file: Path, sees: bool) -> list[Prompt]:
    """All lines; `sees` is whether the model takes images."""
    mend = 'one object in a line: {"prompt": "...", "images": ["..."]}'
    try:
        lines = [(at, line) for at, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(file), mend=mend) from error
    found: list[Prompt] = []
    problems = [] if lines else ["is empty"]
    for at, line in lines:
        try:
            found.append(_prompt(line, file.parent, sees))
        except (ValueError, RecursionError) as error:
            problems.append(f"line {at}: {error}")
    refuse(file, problems, mend)
    return found


def _prompt(line: str, beside: Path, sees: bool) -> Prompt:
    given = json.loads(line)
    text = given.get("prompt") if isinstance(given, dict) else None
    images = given.get("images", []) if isinstance(given, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError("has no prompt")
    if not isinstance(images, list) or not all(isinstance(each, str) for each in images):
        raise ValueError("its images are no list of files")
    if images and not sees:
        raise ValueError("has images, and the model takes none")
    paths = tuple(beside / each for each in images)
    for path in paths:
        try:
            with Image.open(path) as image:
                image.verify()
        except Exception as error:  # a damaged image can end in any of them
            raise ValueError(f"{path.name} is no image") from error
    return Prompt(text, paths)


def drawn(ids: Sequence[int], rows: int = ROWS, length: int = LENGTH) -> list[Inputs]:
    """Rows of tokens, the same each time."""
    choice = torch.randint(len(ids), (rows, length), generator=torch.Generator().manual_seed(SEED))
    return [{"input_ids": row[None]} for row in torch.tensor(ids)[choice]]


def inputs_of(folder: Path, prompts: Sequence[Prompt] | None) -> list[Inputs]:
    """What the model of a folder reads: the prompts, or what is drawn where there are none."""
    try:
        if prompts is None:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
            return drawn([each for each in sorted(tokenizer.get_vocab().values()) if each not in special])
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        what = f"its tokenizer or processor cannot be loaded: {str(error).splitlines()[0]}"
        raise UserError(what, where=str(folder), mend="name a folder that has them with --like") from error
    return [_read(processor, prompt) for prompt in prompts]


def _read(processor: Any, prompt: Prompt) -> Inputs:
    text = prompt.text
    if getattr(processor, "chat_template", None):
        content = [*({"type": "image"} for _ in prompt.images), {"type": "text", "text": text}]
        said: Any = content if hasattr(processor, "image_processor") else text
        text = processor.apply_chat_template([{"role": "user", "content": said}], tokenize=False)
    images = [Image.open(path).convert("RGB") for path in prompt.images]
    return dict(processor(text=[text], **({"images": images} if images else {}), return_tensors="pt"))
