"""One sampled conversation, token by token: what was sampled, what was said to the policy, and what it saw.

Decision: masks are written when tokens are appended, and ids are never decoded and encoded again. Whoever trains on a
trajectory trains on the tokens that the policy sampled.

    part            loss_mask   turn_id   log-probability
    prompt          0           -1        0.0
    prefix          0           1         0.0              the start of the demonstration, where the response has one
    turn k          1           k         as sampled
    observation     0           -k - 1    0.0              an end of turn that was not sampled belongs to it

Invariants
    1. `ids` are expanded: an image is as many placeholders as it has visual tokens, in the order of `images`.
    2. The last token is one that the policy sampled, or nothing was sampled. (`append_generator_answer` adds the
       answer of another model behind it, with mask 0.)
    3. A builder only appends.

Example:
    >>> builder = Builder("7", 0)
    >>> builder.prompt([1, 2]); builder.turn([5, 6], [-0.1, -0.2], ["3", "3"])
    >>> builder.observe([8]); builder.turn([9], [0.0], ["3"])
    >>> done = builder.freeze("answered")
    >>> done.loss_mask, done.turn_id
    ((0, 0, 1, 1, 0, 1), (-1, -1, 1, 1, -2, 2))
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpt_megatron.rollout.agent.views import View

OURS = ("infra_error", "refused", "generator_error")
"""Ends that say nothing about the policy."""
WHOLE_TARGET = "target"
"""How a row ends whose prefix is its whole demonstration."""


@dataclass(frozen=True)
class TurnNote:
    """What a turn did, for the trajectory file; the seconds are not part of what makes two trajectories equal."""

    text: str
    action: str  # empty: none that can be carried out
    body: str = ""
    outcome: str = ""
    pages: tuple[str, ...] = ()
    num_tokens: int = 0
    generate_s: float = field(default=0.0, compare=False)
    tool_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """See the module; everything is per token unless it says otherwise."""

    uid: str
    sample: int
    ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    prefix_mask: tuple[int, ...]  # 1: of the demonstration, given to the policy as its own words
    turn_id: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    versions: tuple[str, ...]  # of the weights that sampled a token; empty where none did
    num_prompt: int  # tokens before the response
    images: tuple[View, ...]
    retrieved: tuple[str, ...]  # canonical ids of pages, in the order in which they were shown
    finish: str
    answer: str | None = None  # of a frozen generator; the policy's own is in its tokens
    counters: Mapping[str, float] = field(default_factory=dict)
    turns: tuple[TurnNote, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def valid(self) -> bool:
        """False where a failure of ours ended it, or where its response is empty: it counts as no rollout."""
        return self.finish not in OURS and (self.num_sampled > 0 or self.is_demonstration)

    @property
    def is_demonstration(self) -> bool:
        """Whether its prefix is the whole of it, and nothing was left to sample."""
        return self.finish == WHOLE_TARGET

    @property
    def num_sampled(self) -> int:
        """Tokens of the policy."""
        return sum(self.loss_mask)

    @property
    def num_response(self) -> int:
        """Tokens behind the prompt, observations included."""
        return len(self.ids) - self.num_prompt

    @property
    def response_mask(self) -> tuple[int, ...]:
        """The loss mask of the response alone."""
        return self.loss_mask[self.num_prompt :]

    @property
    def grids(self) -> list[tuple[int, int, int]]:
        """Of the images, in order."""
        return [view.grid for view in self.images]

    def shows_what_it_says(self, image_pad: int) -> bool:
        """Whether the placeholders are as many as the images have visual tokens."""
        return self.ids.count(image_pad) == sum(view.tokens for view in self.images)


class Builder:
    """A trajectory that grows."""

    def __init__(self, uid: str, sample: int) -> None:
        self.uid, self.sample = uid, sample
        self.ids: list[int] = []
        self.images: list[View] = []
        self.retrieved: list[str] = []
        self.notes: list[TurnNote] = []
        self.num_turns = 0
        self.num_prompt = 0
        self._mask: list[int] = []
        self._prefix: list[int] = []
        self._turn: list[int] = []
        self._logp: list[float] = []
        self._versions: list[str] = []

    def prompt(self, ids: Sequence[int], views: Iterable[View] = ()) -> None:
        """Before anything else."""
        if self.num_turns:
            raise ValueError("a prompt comes before the first turn")
        self._append(ids, 0, -1)
        self.num_prompt = len(self.ids)
        self.images += views

    def prefix(self, ids: Sequence[int]) -> None:
        """The start of the first turn, which the policy goes on from."""
        if self.num_turns or len(self.ids) > self.num_prompt:
            raise ValueError("a prefix comes right behind the prompt")
        self._append(ids, 0, 1)
        self._prefix[self.num_prompt :] = [1] * len(ids)

    def turn(self, ids: Sequence[int], logprobs: Sequence[float], versions: Sequence[str]) -> None:
        """What the policy sampled, as it was sampled."""
        if not len(ids) == len(logprobs) == len(versions):
            raise ValueError(f"{len(ids)} ids, {len(logprobs)} log-probabilities and {len(versions)} versions")
        self.num_turns += 1
        self._append(ids, 1, self.num_turns, logprobs, versions)

    def observe(self, ids: Sequence[int], views: Sequence[View] = (), pages: Sequence[str] = ()) -> None:
        """What the environment said after the last turn; `pages` are those that it found."""
        self._append(ids, 0, -self.num_turns - 1)
        self.images += views
        self.retrieved += pages

    def freeze(
        self,
        finish: str,
        answer: str | None = None,
        counters: Mapping[str, float] | None = None,
        seconds: Mapping[str, float] | None = None,
    ) -> Trajectory:
        """The trajectory, complete."""
        return Trajectory(
            uid=self.uid,
            sample=self.sample,
            ids=tuple(self.ids),
            loss_mask=tuple(self._mask),
            prefix_mask=tuple(self._prefix),
            turn_id=tuple(self._turn),
            rollout_logprobs=tuple(self._logp),
            versions=tuple(self._versions),
            num_prompt=self.num_prompt,
            images=tuple(self.images),
            retrieved=tuple(self.retrieved),
            finish=finish,
            answer=answer,
            counters=dict(counters or {}),
            turns=tuple(self.notes),
            seconds=dict(seconds or {}),
        )

    def _append(
        self, ids: Sequence[int], mask: int, turn: int, logp: Sequence[float] = (), versions: Sequence[str] = ()
    ) -> None:
        self.ids += ids
        self._mask += [mask] * len(ids)
        self._prefix += [0] * len(ids)
        self._turn += [turn] * len(ids)
        self._logp += logp or [0.0] * len(ids)
        self._versions += versions or [""] * len(ids)


def collapsed(ids: Sequence[int], image_pad: int) -> tuple[int, ...]:
    """One placeholder for each image, as an engine takes it, which expands them again.

    Images never touch: each stands between the marks of vision.

    >>> collapsed([1, 7, 7, 2, 7, 3], image_pad=7)
    (1, 7, 2, 7, 3)
    """
    return tuple(token for i, token in enumerate(ids) if token != image_pad or i == 0 or ids[i - 1] != image_pad)


def summary(view: View) -> dict[str, Any]:
    """What a file says of a view."""
    return {"page": view.page, "region": list(view.region), "page_size": list(view.page_size), "grid": list(view.grid)}
