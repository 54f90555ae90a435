"""What all processes must know before they go on together: bad input before a schedule, bad numbers before a step.

One process alone may see the problem. If it raised alone, the others would wait in their next collective for ever; so
each says what it has found, and all raise, or skip, with the same words.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from hpt_megatron.errors import HptError, UserError


class BadRowsError(UserError):
    """Rows that cannot be trained on; nothing was computed and nothing has changed."""


def agree_on_rows(problems: Sequence[str], micro_batches: int, multiple: int) -> None:
    """Raises on every process when one has found a problem, or when their schedules would not fit together."""
    seen = torch.tensor([len(problems), micro_batches, -micro_batches], dtype=torch.int64, device="cuda")
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    bad, most, least = int(seen[0]), int(seen[1]), -int(seen[2])
    if bad:
        raise BadRowsError(first_few(everything_said(problems)), where="batch", mend="leave these rows out")
    if most != least:
        raise HptError(f"processes have between {least} and {most} micro-batches", mend="plan them together")
    if most % multiple:
        what = f"{most} micro-batches do not divide by {multiple} stages"
        raise HptError(what, mend="an interleaved pipeline needs a multiple of pp")


def everything_said(texts: Sequence[str]) -> list[str]:
    """What any process says, each line once, on all processes."""
    gathered: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, list(texts))
    return list(dict.fromkeys(text for each in gathered for text in each))


def first_few(texts: Sequence[str], most: int = 5) -> str:
    """Some of many, on one line.

    >>> first_few(["a", "b", "c"], 2)
    'a; b (and 1 more)'
    """
    rest = f" (and {len(texts) - most} more)" if len(texts) > most else ""
    return "; ".join(texts[:most]) + rest


def any_process(flag: bool) -> bool:
    """Whether one of them says yes."""
    seen = torch.tensor([int(flag)], dtype=torch.int64, device="cuda")
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    return bool(seen[0])
