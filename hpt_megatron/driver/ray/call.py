"""Asking actors: what they raise of ours is raised here as it was; what Ray says of a dead one, in our words."""

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from hpt_megatron.errors import HptError

GRACE_S = 20.0
"""A peer of a dead process fails in its collective, and may say so before Ray notices the death."""


class ActorDiedError(HptError):
    """The process of a role is gone."""


class MemoryShortError(HptError):
    """A role could not get the memory that it asked for."""


def answer(reference: Any, who: str = "a role") -> Any:
    """Of one call."""
    return answers([reference], who)[0]


def answers(references: Sequence[Any], who: str = "a role") -> list[Any]:
    """Of several, in order; the first failure is raised as soon as it is there, whoever else is still at work."""
    waiting = list(references)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        try:
            ray.get(done[0])
        except RayActorError as error:
            raise _died(error, who) from None
        except RayTaskError as error:
            if isinstance(error.cause, HptError):
                raise error.cause from None
            if short_of_memory(error.cause):
                raise MemoryShortError(f"{who} ran out of memory", where="ray") from None
            _look_for_a_death(waiting, who)
            raise
    return list(ray.get(list(references)))


def _look_for_a_death(references: Sequence[Any], who: str) -> None:
    waiting = list(references)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=GRACE_S)
        if not done:
            return
        try:
            ray.get(done[0])
        except RayActorError as error:
            raise _died(error, who) from None
        except Exception:
            continue


def short_of_memory(error: BaseException) -> bool:
    """Whether this is how a device's allocator, the host's or Python says so."""
    words = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words))
    )


def _died(error: RayActorError, who: str) -> ActorDiedError:
    return ActorDiedError(f"a process of {who} died ({type(error).__name__})", where="ray")
