"""What the environment says, as token ids around the conversation's own marks.

    [<|im_end|>]  \n <|im_start|> user\n BODY <|im_end|> \n <|im_start|> assistant\n

The first end of turn is there where the policy did not sample one itself. BODY is images, each between the marks of
vision, or a text; a hint may follow.

Decision: ids are put together piece by piece, text between two marks as one piece, as the conversation of a
demonstration is (`chat.py:Chat.conversation`). So both have the same ids for the same words.

Invariants
    1. No text here holds a tag that a parser or a reward would read: tags are named without their brackets, and text
       from outside (page names, documents, results of tools) loses every angle bracket.
    2. Text never becomes a special token, whatever it spells.

Example: Templates(chat).help(("search", "answer")).ids
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hpt_megatron.data.chat import Chat
from hpt_megatron.rollout.agent.views import View

LONGEST_TEXT = 4000  # characters of one result
NO_NEW_RESULT = "The search found no new page. Try other words."
UNAVAILABLE = "The {tool} is unavailable."
LAST_TURN = "No tool is left. Give the answer now."
LAST_SEARCH = "No tool is left. Say that the search is complete."


@dataclass(frozen=True)
class Observation:
    """Ids to append with mask 0, and the images in them."""

    ids: tuple[int, ...]
    images: tuple[View, ...] = ()
    pages: tuple[str, ...] = ()

    @property
    def visual_tokens(self) -> int:
        """Of all its images."""
        return sum(view.tokens for view in self.images)


def harmless(text: str) -> str:
    """Text from outside: no brackets, so neither tags nor marks; one line of at most `LONGEST_TEXT` characters.

    >>> harmless("a <answer>4</answer>")
    'a answer 4 /answer'
    """
    return " ".join(text.replace("<", " ").replace(">", " ").split())[:LONGEST_TEXT]


class Templates:
    """Observations in the words of one tokenizer."""

    def __init__(self, chat: Chat, captions: bool = False) -> None:
        self.chat, self.captions = chat, captions
        marks = chat.marks
        self._open = [*chat.ids("\n"), marks.im_start]
        self._close = [marks.im_end, *chat.ids("\n"), marks.im_start, *chat.ids("assistant\n")]

    def text(self, body: str, ended: bool, hint: str = "") -> Observation:
        """A text; `ended`: the policy sampled the end of its turn."""
        words = f"{body} {hint}" if hint else body
        return Observation(tuple([*self._start(ended), *self.chat.ids(f"user\n{words}"), *self._close]))

    def images(self, views: Sequence[View], ended: bool, hint: str = "", pages: Sequence[str] = ()) -> Observation:
        """Images one after the other, and what they are if captions are asked for."""
        ids = [*self._start(ended), *self.chat.ids("user\n")]
        for view in views:
            ids += self.chat.image(view.tokens)
        words = " ".join([*(map(caption, views) if self.captions else ()), *([hint] if hint else [])])
        ids += self.chat.ids(words) if words else []
        return Observation((*ids, *self._close), tuple(views), tuple(pages))

    def help(self, actions: Sequence[str], ended: bool, hint: str = "") -> Observation:
        """For a turn without an action that can be carried out."""
        return self.text(help_text(actions), ended, hint)

    def _start(self, ended: bool) -> list[int]:
        return self._open if ended else [self.chat.marks.im_end, *self._open]


def help_text(actions: Sequence[str]) -> str:
    """Names of tags, without brackets."""
    return f"This turn has no valid action. Use one tag out of: {', '.join(actions)}. Open it, fill it, close it."


def caption(view: View) -> str:
    """A page by its id; a crop as one."""
    if not view.whole:
        return "A part of an image above."
    return f"Page {harmless(view.page)}." if view.page else "An image."
