"""What an agent may do, on what it ends, and the instruction that tells it so.

    mode          actions                            ends on             the answer comes from
    single_turn   none                               the end of a turn   the turn
    vrag          search, bbox, answer               answer              the policy
    searcher      search, bbox, search_complete      search_complete     a frozen generator, if there is one

Instructions are our own words; `own` belongs to the mode, `vrag_compat` follows the order of the public VRAG prompt,
`none` adds nothing, and any other name is a file. `{question}` is where the question goes; without it the question
follows.

Example:
    >>> "bbox" in MODES["vrag"].actions, MODES["single_turn"].actions
    (True, ())
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpt_megatron.data.record import Message
from hpt_megatron.errors import UserError

LARGEST_FILE = 100_000

TAGS = """First think inside <think> and </think>. Then do exactly one thing:
- <search>words</search> to look for pages; the best page that you have not seen is shown;
- <bbox>[x1, y1, x2, y2]</bbox> to look closer at a part of the last image, in its pixels, from its upper left corner;
"""
VRAG = f"Answer the question with the help of page images.\n{TAGS}- <answer>short answer</answer> when you know it.\n"
SEARCHER = (
    f"Find the pages that answer the question; somebody else will answer it.\n{TAGS}"
    "- <search_complete>true</search_complete> when you have seen all that is needed.\n"
)
VRAG_COMPAT = """Answer the given question. Whenever you receive new information, reason about it first, inside <think>
and </think>. If knowledge is missing after that, ask the search engine with <search> query </search>; the user then
returns a page. Whenever a page was returned you may crop it to see a part more clearly, with
<bbox>[x1, y1, x2, y2]</bbox>. Search as often as you like. When nothing is missing any more, give the answer inside
<answer> and </answer>, without further explanation.
Question: {question}"""


@dataclass(frozen=True)
class Mode:
    """Actions in the order in which they are named to the policy."""

    name: str
    actions: tuple[str, ...]
    ending: str
    instruction: str


MODES = {
    "single_turn": Mode("single_turn", (), "", ""),
    "vrag": Mode("vrag", ("search", "bbox", "answer"), "answer", VRAG),
    "searcher": Mode("searcher", ("search", "bbox", "search_complete"), "search_complete", SEARCHER),
}
PRESETS = {"vrag_compat": VRAG_COMPAT, "none": ""}


def mode_of(name: str, tools: Sequence[str] = ()) -> Mode:
    """A mode, with more tools in front of what ends it."""
    mode = MODES[name]
    if not tools or not mode.actions:
        return mode
    words = "".join(f"- <{tool}>...</{tool}> to use the {tool};\n" for tool in tools)
    head, last, tail = mode.instruction.rpartition(f"- <{mode.ending}>")
    return Mode(mode.name, (*mode.actions[:-1], *tools, mode.ending), mode.ending, f"{head}{words}{last}{tail}")


def instruction_of(mode: Mode, prompt: str) -> str:
    """The instruction of a name or a file."""
    if not mode.actions:
        return ""
    if prompt == "own":
        return mode.instruction
    if prompt in PRESETS:
        return PRESETS[prompt]
    path = Path(prompt)
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        what = "no such instruction, and no such file of text"
        raise UserError(what, where=f"rollout.agent_prompt = {prompt}", mend="own, vrag_compat, none, or a file")
    return path.read_text(encoding="utf-8")


def instructed(messages: Sequence[Message], instruction: str) -> tuple[Message, ...]:
    """The conversation with the instruction before the user's first words."""
    if not instruction:
        return tuple(messages)
    first = next((i for i, message in enumerate(messages) if message.role == "user"), None)
    if first is None:
        return (*messages, Message("user", instruction))
    asked = messages[first].content
    text = instruction.replace("{question}", asked) if "{question}" in instruction else f"{instruction}\n{asked}"
    return (*messages[:first], Message("user", text), *messages[first + 1 :])
