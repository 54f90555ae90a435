"""Conversations as token ids: the tokenizer of a checkpoint's folder and its chat template (ChatML, or Llama's).

Decision: ids are put together piece by piece; the template's text is never rendered for a row. So a mask is written
where its tokens are written, and text that happens to spell a special token (`<|im_end|>` in a question) stays text.
Opening a folder checks that this gives what `apply_chat_template` gives, for a conversation with images and several
turns; a template of another form is refused there.

    <|im_start|> role \n content <|im_end|> \n ...      and at the end of a prompt      <|im_start|> assistant \n

Llama's form, which has no images, is in `chat_form.py`, with what differs.

Invariants
    1. Special tokens are hard boundaries: between two of them the text is tokenised as one piece, as the tokenizer
       would do with the whole string. One exception, on purpose: an assistant's content is a piece of its own, because
       what a model samples comes after the `\n` of the prompt and is never merged with it.
    2. `<image>` becomes `<|vision_start|>`, as many `<|image_pad|>` as the image has visual tokens, `<|vision_end|>`.
    3. No id is known in advance: all are looked up by name.
    4. Safe for several threads: nothing changes after opening.

Example:
    >>> chat = Chat.open("runs/tiny")  # doctest: +SKIP
    >>> chat.text(chat.prompt([Message("user", "count ?")], []))  # doctest: +SKIP
    'system\nYou are a helpful assistant.\nuser\ncount ?\nassistant\n'
"""

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hpt_megatron.data.chat_form import ABSENT, HEADERS, SYSTEM, Form, Marks, form_of, marks_for, system_of
from hpt_megatron.data.record import IMAGE, ROLES, Message, marks_of
from hpt_megatron.errors import UserError


@dataclass(frozen=True)
class Chat:
    """A tokenizer with its template; open it with `Chat.open`."""

    folder: str
    plain: Any  # the tokenizer; special tokens in a text are spelled out
    parsing: Any  # the tokenizer; special tokens in a text are themselves
    marks: Marks
    ends: frozenset[int]  # any of them ends a turn of the model
    default_system: str | None  # what the template says where no system message is given
    form: Form

    @classmethod
    def open(cls, folder: str | Path) -> "Chat":
        """From local files only; no code of the folder runs."""
        import torch  # noqa: F401  # first: it hides what cannot load here, and transformers looks for that only once
        from transformers import AutoTokenizer
        from transformers.utils import logging

        where = str(folder)
        if not (Path(folder) / "tokenizer.json").is_file():
            raise UserError("holds no tokenizer.json", where=where, mend="give the folder of a checkpoint")
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=True)
        except Exception as error:
            raise UserError(f"its tokenizer cannot be read: {error}", where=where) from error
        finally:
            logging.set_verbosity(before)
        parsing = tokenizer.backend_tokenizer
        form = form_of(parsing.token_to_id)
        marks = marks_for(form, parsing.token_to_id, where)
        plain = copy.deepcopy(parsing)
        plain.encode_special_tokens = True
        form, system = system_of(form, tokenizer, where)
        chat = cls(where, plain, parsing, marks, _ends(Path(folder), marks), system, form)
        _check(chat, tokenizer)
        return chat

    @cached_property
    def size(self) -> int:
        """Ids from here on stand for nothing; a model may have rows for them."""
        return int(self.parsing.get_vocab_size(with_added_tokens=True))

    @cached_property
    def forbidden(self) -> frozenset[int]:
        """Ids that are never to be sampled; the model's unused rows, from `size` on, come on top."""
        marks = self.marks
        opens = (marks.im_start, *self.form.begin, *([] if self.form.header_end is None else [self.form.header_end]))
        seen = (marks.vision_start, marks.vision_end, marks.vision_pad, marks.image_pad, marks.video_pad)
        return frozenset((*opens, *seen)) - {ABSENT}

    @property
    def after_turn(self) -> list[int]:
        """What stands behind the end of a turn and is no part of what was said."""
        return self.ids(self.form.closing)

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that decides which ids a text becomes."""
        told = [self.parsing.to_str(), str(sorted(self.ends)), repr(self.default_system)]
        if self.form.preamble:
            told.append(self.form.preamble)
        return hashlib.sha256("\0".join(told).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def ids(self, text: str, special: bool = False) -> list[int]:
        """The ids of a text. A special token's name in it is text, unless `special` asks for the token."""
        tokenizer = self.parsing if special else self.plain
        return list(tokenizer.encode(_clean(text), add_special_tokens=False).ids)

    def text(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of some ids, without special tokens unless `special` asks for their names."""
        return str(self.parsing.decode(list(ids), skip_special_tokens=not special))

    def prompt(self, messages: Sequence[Message], token_counts: Sequence[int]) -> list[int]:
        """The conversation up to where the assistant begins; `token_counts`: visual tokens of each image, in order."""
        ids, _ = self.conversation(messages, token_counts)
        head, opening = self._opened("assistant")
        return [*ids, *head, *self.ids(opening)]

    def conversation(self, messages: Sequence[Message], token_counts: Sequence[int]) -> tuple[list[int], list[bool]]:
        """All ids, and which of them the assistant said: its content and the end of its turn."""
        if marks_of(messages) != len(token_counts):
            what = f"the conversation marks {marks_of(messages)} images and {len(token_counts)} are given"
            raise UserError(what, mend=f"one {IMAGE} for each image")
        counts = iter(token_counts)
        ids = list(self.form.begin)
        trained = [False] * len(ids)
        for message in self.with_system(messages):
            if message.role not in ROLES:
                raise UserError(f"unknown role {message.role!r}", mend=f"known: {', '.join(ROLES)}")
            said = message.role == "assistant"
            content = message.content if message.role == SYSTEM else self.form.said(message.content)
            head, opening = self._opened(message.role)
            head = [*head, *self.ids(opening)] if said else head
            body = self._content(content if said else f"{opening}{content}", counts)
            for piece, is_said in ((head, False), ([*body, self.marks.im_end], said), (self.after_turn, False)):
                ids += piece
                trained += [is_said] * len(piece)
        return ids, trained

    def with_system(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the template takes them: with its own system text where none is given."""
        if messages and messages[0].role == SYSTEM:
            own = f"{self.form.preamble}{self.form.said(messages[0].content)}"
            return [Message(SYSTEM, own), *messages[1:]]
        if self.default_system is None:
            return list(messages)
        return [Message(SYSTEM, self.default_system), *messages]

    def _opened(self, role: str) -> tuple[list[int], str]:
        return self.form.opened(role, self.marks.im_start, self.ids)

    def image(self, count: int) -> list[int]:
        """The ids that stand for an image of so many visual tokens."""
        if self.marks.image_pad == ABSENT:
            raise UserError("the model sees none", where="an image", mend="rows without images, or Qwen2.5-VL")
        return [self.marks.vision_start, *[self.marks.image_pad] * count, self.marks.vision_end]

    def _content(self, content: str, counts: Iterator[int]) -> list[int]:
        first, *rest = content.split(IMAGE)
        ids = self.ids(first)
        for text in rest:
            ids += [*self.image(next(counts)), *self.ids(text)]
        return ids


def _clean(text: str) -> str:
    """Half of a surrogate pair, which JSON can carry, is no text: the tokenizer would raise."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _ends(folder: Path, marks: Marks) -> frozenset[int]:
    """The ids that end a generation, as the checkpoint says; a chat's own two where it says nothing."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        try:
            ends = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
            if ends is not None:
                return frozenset(map(int, ends if isinstance(ends, list) else [ends]))
        except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(f"cannot be read: {error}", where=str(path)) from error
    return frozenset((marks.im_end, marks.endoftext))


def _check(chat: Chat, tokenizer: Any) -> None:
    """Piece by piece equals the whole string, for everything that the pieces can meet."""
    sees = "<|vision_start|>" in str(tokenizer.get_chat_template())  # a template of a text model takes no images
    image = IMAGE if sees else ""
    said = [
        Message("system", "Be brief.\n"),
        Message("user", f"\n\n{image}a b?{image}{image} 12 k07  \n"),
        Message("assistant", "<think>1+2\n\n</think>\n<search>k07</search>"),
        Message("user", f"{image}"),
        Message("assistant", " so: <answer>\u00e9 3 </answer> \n"),
        Message("user", "next"),
    ]
    for messages in (said, [Message("user", f"{image}what?")]):
        turns = [{"role": message.role, "content": as_parts(message.content, sees)} for message in messages]
        whole = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        if chat.ids(whole, special=True) != chat.prompt(messages, [1] * marks_of(messages)):
            family = "Llama 3.1" if chat.form.name == HEADERS else "Qwen2.5 or Qwen2.5-VL"
            mend = f"use a {family} checkpoint with its own template"
            raise UserError("its chat template is not the one that is known here", where=chat.folder, mend=mend)


def as_parts(content: str, sees: bool = True) -> list[dict[str, str]] | str:
    """A content as a template of transformers takes it: a list of texts and images."""
    if not sees:
        return content
    first, *rest = content.split(IMAGE)
    parts = [{"type": "text", "text": first}] if first else []
    for text in rest:
        parts += [{"type": "image"}, *([{"type": "text", "text": text}] if text else [])]
    return parts
