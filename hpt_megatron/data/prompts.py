"""The prompts of a run: records as token ids, those that are too long left out and counted, and what is taken of them.

    record -> Prompt(ids, sizes of its images, its target as ids)          images stay encoded until they are needed

Decision: a target is kept whole here, with the mask of what the assistant said in it; how one that is longer than
`data.max_prefix_len` is cut is the algorithm's choice (`algorithms/target.py`). Here it is counted.

Invariants
    1. Prompts keep the order of their records. `index` is a prompt's name everywhere; a place (`item`) is only good for
       as long as nothing was removed.
    2. A prompt longer than `max_prompt_length`, images included, is left out, and so is one whose image tells no size
       that can be shown; the report says how many. Nothing is cut. Images are not decoded here: one that is broken
       behind its header is told when it is prepared (`prepared.py`), and by `hpt data inspect`.
    3. A target that starts with the text that the prompt ends with (`response_prefix`, such as `<think>\n`) loses it:
       it is not said twice.
    4. What was removed stays removed through `state` and `restore`.

Example:
    >>> prompts = Prompts.of(records, chat, rules, PromptRules(longest=1024))  # doctest: +SKIP
    >>> prompts.report["too_long"], len(prompts.random_get(2, seed=0))  # doctest: +SKIP
    (3, 2)
"""

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import MOST_PIXELS, PictureRules, grid, shown_size, size_of, tokens
from hpt_megatron.data.reading import Problem, problem_of
from hpt_megatron.data.record import Message, Record, Source
from hpt_megatron.errors import UserError

LOG = logging.getLogger(__name__)
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PromptRules:
    """How records become prompts."""

    longest: int  # tokens of a prompt, images included
    longest_target: int | None = None  # only counted
    drop_system: bool = False  # leave out a system message that the data brings
    suffix: str = ""  # after what the user asks last
    response_prefix: str = ""  # what every response begins with, as part of the prompt
    min_pixels: int | None = None
    max_pixels: int | None = None
    pixel_limit: int = MOST_PIXELS


@dataclass(frozen=True)
class Prompt:
    """A prompt as ids; `sizes` are the shown sizes of its images."""

    record: Record
    ids: tuple[int, ...]
    sizes: tuple[Size, ...]
    target_ids: tuple[int, ...] = ()  # what follows the prompt, the end of the turn included; empty without a target
    target_trained: tuple[bool, ...] = ()
    target_sizes: tuple[Size, ...] = ()

    @property
    def index(self) -> str:
        """The name of the prompt and of its group."""
        return self.record.index


def make_prompt(record: Record, chat: Chat, rules: PictureRules, own: PromptRules) -> Prompt:
    """One record as ids; raises where an image is broken."""
    messages = list(record.prompt)
    if own.drop_system and messages[0].role == "system" and len(messages) > 1:
        messages = messages[1:]
    if own.suffix:
        messages[-1] = Message(messages[-1].role, messages[-1].content + own.suffix)
    sizes, counts = _seen(record.images, rules, own)
    ids = tuple(chat.prompt(messages, counts) + chat.ids(own.response_prefix))
    if not record.target:
        return Prompt(record, ids, sizes)
    first, *rest = record.target
    said = Message(first.role, first.content.removeprefix(own.response_prefix))
    target_sizes, target_counts = _seen(record.target_images, rules, own)
    whole, trained = chat.conversation([*messages, said, *rest], [*counts, *target_counts])
    start = len(ids) - len(chat.ids(own.response_prefix))
    end = len(whole) - len(chat.after_turn)  # a response ends with its end, not with the line break after it
    return Prompt(record, ids, sizes, tuple(whole[start:end]), tuple(trained[start:end]), target_sizes)


def _seen(images: Sequence[Source], rules: PictureRules, own: PromptRules) -> tuple[tuple[Size, ...], list[int]]:
    sizes = []
    for image in images:
        sizes.append(shown_size(*size_of(image, own.pixel_limit), rules, own.min_pixels, own.max_pixels))
    return tuple(sizes), [tokens(grid(*size, rules), rules) for size in sizes]


@dataclass
class Prompts:
    """A set of prompts by name."""

    held: dict[str, Prompt]
    report: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)
    _left: list[str] | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        chat: Chat,
        rules: PictureRules,
        own: PromptRules,
        told: Callable[[Record], Record] = lambda record: record,
    ) -> "Prompts":
        """The prompts of some records that fit; `told` adds what a policy is told beside them, such as its tools."""
        report = Counter(dict.fromkeys(("rows", "too_long", "broken", "without_target", "target_too_long"), 0))
        problems, held = [], {}
        for record in records:
            report["rows"] += 1
            try:
                prompt = replace(make_prompt(told(record), chat, rules, own), record=record)
            except UserError as error:
                report["broken"] += 1
                problems.append(replace(problem_of(error, ""), where=f"row {record.index}", what=str(error)))
                continue
            if len(prompt.ids) > own.longest:
                report["too_long"] += 1
                what = f"its prompt has {len(prompt.ids)} tokens, the limit is {own.longest}"
                problems.append(Problem(f"row {record.index}", what, "warning"))
                continue
            report["without_target"] += not prompt.target_ids
            report["target_too_long"] += len(prompt.target_ids) > (own.longest_target or len(prompt.target_ids))
            held[record.index] = prompt
        return cls(held, dict(report), problems)

    def __len__(self) -> int:
        return len(self.held) - len(self.removed)

    def __getitem__(self, index: str) -> Prompt:
        return self.held[index]

    @property
    def names(self) -> list[str]:
        """The names of those that are left, in order; made once, as whoever goes through all asks for each."""
        if self._left is None:
            self._left = [name for name in self.held if name not in self.removed]
        return self._left

    def random_get(self, num: int, seed: int) -> list[Prompt]:
        """So many different prompts by chance, all of them if there are fewer; each carries its own golds and name."""
        if num < 1:
            raise UserError(f"{num} prompts were asked for", where="random_get", mend="ask for 1 or more")
        names = self.names
        if num > len(names):
            LOG.warning("random_get: %d prompts were asked for, there are %d", num, len(names))
        return [self.held[name] for name in random.Random(seed).sample(names, min(num, len(names)))]

    def remove_data(self, items: Iterable[int | str]) -> int:
        """Leaves out prompts, by name or by their place among those that are left; returns how many went.

        Places out of range and unknown names are ignored, and so is what is named twice.
        """
        names = self.names
        gone = {
            names[item] if isinstance(item, int) else item
            for item in items
            if (item in self.held if isinstance(item, str) else 0 <= item < len(names))
        } - self.removed
        self.removed, self._left = self.removed | gone, None
        LOG.info("remove_data: %d prompts removed, %d left", len(gone), len(self))
        return len(gone)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs besides the files."""
        return {"removed": sorted(self.removed)}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        self.removed, self._left = set(state["removed"]) & set(self.held), None
