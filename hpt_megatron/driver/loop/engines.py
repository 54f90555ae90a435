"""When the engines may generate: at the weights that were asked for, and, where devices are shared, with them alone.

    with engines.at("7") as published: rollout.collect(...)

Invariants
    1. Inside, every engine has the weights of the version that was asked for.
    2. Where devices are shared, the trainer has nothing on them inside, and nobody may ask it for anything.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from hpt_megatron.rollout.engine.colocated import Sleeper, Trainer, shared_devices


class Sync(Protocol):
    """Who brings the engines to the trainer's weights."""

    def publish(self, version: str) -> Any:
        """Seconds and bytes."""

    def close(self) -> None:
        """Ends the session; the next publish is of everything."""


class Group(Sleeper, Protocol):
    """All engines, as far as their lives go."""

    def ready(self) -> None:
        """Until all of them have started."""

    def mend(self) -> int:
        """Starts those again that are gone; answers how many."""


class Engines:
    """Those with devices of their own: new weights are sent once for each version."""

    def __init__(self, sync: Sync, group: Group) -> None:
        self.sync, self.group = sync, group
        self._version = ""

    @contextmanager
    def at(self, version: str) -> Iterator[Any]:
        """Yields what a publish says, or None where none was needed."""
        self.group.ready()
        published = self.sync.publish(version) if version != self._version else None
        self._version = version
        yield published

    def forget(self) -> None:
        """They no longer have what they had: the trainer went back to other weights."""
        self._version = ""

    def mend(self) -> int:
        """Starts those again that died; all get everything before the next rollout."""
        self.sync.close()
        self._version = ""
        return self.group.mend()


class SharedEngines(Engines):
    """Those on the trainer's devices: they have them inside, and sleep outside."""

    def __init__(self, sync: Sync, group: Group, trainer: Trainer) -> None:
        super().__init__(sync, group)
        self.trainer = trainer

    @contextmanager
    def at(self, version: str) -> Iterator[Any]:
        """As above; a sleeping engine keeps no weights, so each time brings all of them."""
        with shared_devices(self.trainer, self.group, lambda: self.sync.publish(version)) as published:
            yield published

    def mend(self) -> int:
        """As above; outside they all sleep."""
        gone = super().mend()
        self.group.sleep()
        return gone
