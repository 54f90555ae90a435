"""From the token ids of a target to the tokens of a demonstration.

    body     the ids without what pads or ends them on the right: trailing pad and end ids, in any mix
    target   body and one end id; a body of nothing is no target, so no row is ever made of it

A target longer than `limit` (its end id counted) has lost its end, whatever is done with it. `cut` says what that is:

    drop       no demonstration. The prompt is treated as one without a target (default)
    truncate   the first `limit` ids of the body and no end id
    official   what the released code trains on: it cuts the ids to `limit`, then adds an end id, then cuts to `longest`
               (the longest response); its mask ends at the first end id

Why so: a cut demonstration has no answer in it. An end id behind the cut would teach to stop in the middle of a
thought, so `truncate` adds none; every id it keeps is the right next one, and nothing is said about where to stop.
But many of them teach beginnings without ends, so the default leaves them out. Either way they are counted. The
released code counts nothing; where `limit` equals `longest` its cut targets do not stop, and where it is smaller they
stop in the middle.

Invariants
    1. The ids given are not changed. How far they are padded on the right changes nothing.
    2. A target that is not cut holds the whole body and ends with its one added end id. It is its own target.
    3. `drop` and `truncate` never make more than `limit` ids, `official` never more than `longest`. `truncate` keeps a
       beginning of the whole target.
    4. An end id inside the body (between the turns of a conversation) is kept, except by `official`.

Example:
    >>> rules = TargetRules(eos=2, pad=0, limit=6)
    >>> make_target([21, 22, 23, 0, 0], rules)
    Target(ids=(21, 22, 23, 2), cut=False)
    >>> make_targets([[1, 3, 4, 5, 6, 7, 8], [0, 0]], rules)[1]
    {'targets': 0, 'targets_empty': 1, 'targets_dropped': 1, 'targets_cut': 0}
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from hpt_megatron.errors import UserError

Cut = Literal["drop", "truncate", "official"]


@dataclass(frozen=True, kw_only=True)
class TargetRules:
    """The ids that end and pad, and what is done with targets that are too long."""

    eos: int
    pad: int | None
    limit: int
    cut: Cut = "drop"
    longest: int | None = None  # the longest response, read by `official`; None: the same as limit

    def __post_init__(self) -> None:
        if self.cut not in get_args(Cut):
            known = ", ".join(get_args(Cut))
            raise UserError(f"no such way to cut a target: {self.cut}", where="cut", mend=f"one of {known}")
        if self.limit < 1:
            raise UserError(f"a target of at most {self.limit} tokens", where="limit", mend="1 or more")
        if self.longest is not None and self.longest < self.limit:
            what = f"targets of {self.limit} tokens do not fit into responses of {self.longest}"
            raise UserError(what, where="limit", mend=f"at most {self.longest}")


@dataclass(frozen=True)
class Target:
    """The tokens of a demonstration; `cut` where it does not hold all of the target and its end id."""

    ids: tuple[int, ...]
    cut: bool


def make_target(ids: Sequence[int], rules: TargetRules) -> Target | None:
    """The demonstration of a target, or None where there is none to be made."""
    body = _body(ids, rules)
    if not body:
        return None
    whole = (*body, rules.eos)
    if rules.cut == "official":
        kept = _released(ids, rules)
        return Target(kept, kept != whole) if kept else None
    if len(whole) <= rules.limit:
        return Target(whole, cut=False)
    return Target(body[: rules.limit], cut=True) if rules.cut == "truncate" else None


def make_targets(many: Iterable[Sequence[int]], rules: TargetRules) -> tuple[list[Target | None], dict[str, int]]:
    """The demonstration of every target, and how many are there, are empty, were dropped, were cut."""
    made, empty = [], 0
    for ids in many:
        made.append(make_target(ids, rules))
        empty += not _body(ids, rules)
    there = [target for target in made if target is not None]
    return made, {
        "targets": len(there),
        "targets_empty": empty,
        "targets_dropped": len(made) - len(there) - empty,
        "targets_cut": sum(target.cut for target in there),
    }


def _body(ids: Sequence[int], rules: TargetRules) -> tuple[int, ...]:
    end = len(ids)
    while end and ids[end - 1] in (rules.pad, rules.eos):
        end -= 1
    return tuple(ids[:end])


def _released(ids: Sequence[int], rules: TargetRules) -> tuple[int, ...]:
    body = _body(ids[: rules.limit], rules)
    ended = (*body, rules.eos) if body else ()
    fits = ended[: rules.longest or rules.limit]
    return fits[: fits.index(rules.eos) + 1] if rules.eos in fits else fits
