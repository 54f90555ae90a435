"""Seconds that models took to leave device memory for the host's, and to come back.

    moves = Moves()
    with moves.of("reference"): ...
    moves.taken()                   {"move_s/reference": 0.2}, and from here on counts anew

They are part of the stages that they happen in: `reference`, `reward_models`, `publish`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Moves:
    """See the module."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def of(self, model: str) -> Iterator[None]:
        """What is inside is a move of a model, one way or the other."""
        began = time.perf_counter()
        yield
        self._seconds[model] = self._seconds.get(model, 0.0) + time.perf_counter() - began

    def taken(self) -> dict[str, float]:
        """By model, since this was last asked; a model that stayed where it was has no entry."""
        seconds, self._seconds = self._seconds, {}
        return {f"move_s/{model}": value for model, value in seconds.items()}
