"""The action of a turn, on its tokens: which it is, and where the turn ends.

Decision: text is looked at, tokens are kept. The sampled ids are cut behind the token that completes the action's
closing tag; the start of a sample of the policy is itself one, so log-probabilities and masks stay exact. A tag may
be several tokens, or share its last one with more text, which then stays whole.

Invariants
    1. `cut.ids` is the start of what was sampled, and its action is that of the whole turn.
    2. An end of turn that was sampled right behind the closing tag stays: the policy chose it.
    3. The text is decoded some ten times, whatever the length.

Example: of `<search>k07</search> and so on <|im_end|>` the words after the tag go, and with them the end.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from hpt_megatron.rewards.turns import Action, first_action

Text = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Cut:
    """How many of the sampled ids make the turn, its action, and whether another one was thrown away."""

    length: int
    action: Action | None
    more: bool = False


def cut_after_action(
    ids: Sequence[int], text: Text, ends: Collection[int], *, tools: tuple[str, ...] = (), truncate: bool = True
) -> Cut:
    """The action of a turn and the length at which it is complete; all of it where there is none."""
    action = first_action(text(ids), tools)
    if action is None:
        return Cut(len(ids), None)
    low, high = 1, len(ids)
    while low < high:  # once the action is complete, it is the first one of every longer start as well
        middle = (low + high) // 2
        if first_action(text(ids[:middle]), tools) == action:
            high = middle
        else:
            low = middle + 1
    more = first_action(text(ids[low:]), tools) is not None
    if not truncate:
        return Cut(len(ids), action, more)
    if low < len(ids) and ids[low] in ends:
        low += 1
    return Cut(low, action, more)
