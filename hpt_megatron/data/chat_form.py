"""The two forms of a conversation that are known: ChatML (Qwen) and headers (Llama 3).

    <|im_start|> role \n content <|im_end|> \n                                                                   ChatML
    <|begin_of_text|> ( <|start_header_id|> role <|end_header_id|> \n\n content <|eot_id|> )*                    headers

Decision: a form is what differs, as values; `chat.py` puts the pieces together the same way for both. Headers trim
every content, and their template may say something in the system turn before the text that it is given (`preamble`).

Invariants
    1. A mark that a form lacks has the id `ABSENT`, which is no token's: it is never found in a row.
    2. No id is known in advance: all are looked up by name.

Example:
    >>> form_of({"<|im_start|>": 7}.get).name
    'ChatML'
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hpt_megatron.errors import UserError

ABSENT = -1
SYSTEM = "system"
CHATML, HEADERS = "ChatML", "headers"
START, HEADER_END, BEGIN = "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>"


@dataclass(frozen=True)
class Marks:
    """The ids of the tokens that give a conversation its form."""

    im_start: int
    im_end: int
    endoftext: int
    vision_start: int
    vision_end: int
    vision_pad: int
    image_pad: int
    video_pad: int


NAMES = tuple(f"<|{name}|>" for name in Marks.__annotations__)
OF_HEADERS = {"<|im_start|>": START, "<|im_end|>": "<|eot_id|>", "<|endoftext|>": "<|end_of_text|>"}


@dataclass(frozen=True)
class Form:
    """What stands around a turn's content."""

    name: str
    begin: tuple[int, ...] = ()  # before the first turn
    header_end: int | None = None  # after the role; None: the role is text of the content's own piece
    opening: str = "\n"  # between the role and the content
    closing: str = "\n"  # after the end of a turn
    trims: bool = False
    preamble: str = ""  # of the system turn

    def opened(self, role: str, start: int, ids: Callable[[str], list[int]]) -> tuple[list[int], str]:
        """The ids that begin a turn, and the text that is one piece with its content."""
        if self.header_end is None:
            return [start], f"{role}{self.opening}"
        return [start, *ids(role), self.header_end], self.opening

    def said(self, content: str) -> str:
        """A content as the template writes it."""
        return content.strip() if self.trims else content


def form_of(look: Callable[[str], Any]) -> Form:
    """The form of a tokenizer, by the marks that it has."""
    if look("<|im_start|>") is None and look(START) is not None:
        ids = [look(name) for name in (BEGIN, HEADER_END)]
        if None not in ids:
            return Form(HEADERS, begin=(ids[0],), header_end=ids[1], opening="\n\n", closing="", trims=True)
    return Form(CHATML)


def marks_for(form: Form, look: Callable[[str], Any], where: str) -> Marks:
    """The ids of the marks, or the first that is missing."""
    if form.name == HEADERS:
        found = [look(OF_HEADERS[name]) if name in OF_HEADERS else ABSENT for name in NAMES]
    else:
        found = [look(name) for name in NAMES]
    if None in found:
        name = NAMES[found.index(None)]
        lacks = OF_HEADERS.get(name, name) if form.name == HEADERS else name
        raise UserError(f"its tokenizer lacks {lacks}", where=where, mend="use Qwen2.5 or later, or Llama 3.1")
    return Marks(*found)


def system_of(form: Form, tokenizer: Any, where: str) -> tuple[Form, str | None]:
    """The form with its preamble, and what the template says where no system message is given."""
    if form.name == HEADERS:
        alone, given = _system_turn(tokenizer, None, where), _system_turn(tokenizer, "S", where)
        if given is None or not given.endswith("S"):
            raise UserError("its chat template is not Llama's", where=where, mend="use a Llama 3.1 checkpoint")
        return replace(form, preamble=given[:-1]), alone
    user = "<|im_start|>user\nQ<|im_end|>\n"
    text = _rendered(tokenizer, [{"role": "user", "content": "Q"}], where)
    head, start, end = text.removesuffix(user), f"<|im_start|>{SYSTEM}\n", "<|im_end|>\n"
    if not text.endswith(user) or (head and not (head.startswith(start) and head.endswith(end))):
        raise UserError("its chat template is not ChatML", where=where, mend="use a Qwen2, 2.5 or 2.5-VL checkpoint")
    return form, head[len(start) : -len(end)] if head else None


def _system_turn(tokenizer: Any, content: str | None, where: str) -> str | None:
    """What stands in the system turn of headers; None where there is no such turn."""
    system = [] if content is None else [{"role": SYSTEM, "content": content}]
    text = _rendered(tokenizer, [*system, {"role": "user", "content": "Q"}], where)
    user, end = f"{START}user{HEADER_END}\n\nQ<|eot_id|>", "<|eot_id|>"
    start = f"{BEGIN}{START}{SYSTEM}{HEADER_END}\n\n"
    head = text.removesuffix(user)
    if head == BEGIN:
        return None
    if not text.endswith(user) or not (head.startswith(start) and head.endswith(end)):
        raise UserError("its chat template is not Llama's", where=where, mend="use a Llama 3.1 checkpoint")
    return head[len(start) : -len(end)]


def _rendered(tokenizer: Any, messages: list[dict[str, str]], where: str) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:
        raise UserError(f"its chat template cannot be used: {error}", where=where) from error
