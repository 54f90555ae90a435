"""Asking actors: what they raise of ours is raised here as it was; what Ray says of a dead one, in our words."""

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from hpt_megatron.errors import HptError


class ActorDiedError(HptError):
    """The process of a role is gone."""


def answer(reference: Any, who: str = "a role") -> Any:
    """Of one call."""
    return answers([reference], who)[0]


def answers(references: Sequence[Any], who: str = "a role") -> list[Any]:
    """Of several, in order; the first failure is raised as soon as it is there, whoever else is still at work."""
    waiting = list(references)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        _get(done[0], who)
    return [_get(each, who) for each in references]


def _get(reference: Any, who: str) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, HptError):
            raise error.cause from None
        raise
    except RayActorError as error:
        raise ActorDiedError(f"{who} died: {str(error).splitlines()[0]}", where="ray") from None
