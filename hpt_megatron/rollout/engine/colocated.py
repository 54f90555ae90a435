"""The order in which a trainer and an engine share their devices.

    with shared_devices(trainer, engine, lambda: sync.publish("7")) as published:
        engine.generate(prompts, sampling)

    trainer            engine
    gradients and
    moments go out     weights wake      room for two copies of the weights, and for nothing else
    weights sent  ---> weights taken
    weights go out     cache wakes       now the engine has the device alone
                       generates
                       sleeps
    all comes back

A sleeping engine keeps no copy of its weights: in host memory there is none to spare beside the trainer's state, and a
publish brings them anyway. So each publish is then of everything, what is frozen included.

On a host without an accelerator the same calls are made in the same order. No memory is given back there, so what is
proven without a GPU is the order and what each side refuses in between, not the bytes.

Invariants
    1. The cache is asleep while weights are published: on a device of 80 GB both copies and a cache do not fit.
    2. Whatever happens inside, the engine is put to sleep and the trainer is whole again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

from hpt_megatron.rollout.engine.role import Asleep

T = TypeVar("T")


class Trainer(Protocol):
    """All processes of the trainer, as far as its memory goes."""

    def offload(self, weights: bool = True) -> Any:
        """Gradients and moments go out of device memory; weights too, unless a publish still needs them."""

    def onload(self) -> Any:
        """All of it comes back."""


class Sleeper(Protocol):
    """An engine, as far as its memory goes."""

    def sleep(self) -> None:
        """Weights and cache go."""

    def wake(self, what: Asleep) -> None:
        """One of them comes."""


@contextmanager
def shared_devices(trainer: Trainer, engine: Sleeper, publish: Callable[[], T]) -> Iterator[T]:
    """Inside, the engine has the devices, at the trainer's weights. It sleeps before and after."""
    try:
        trainer.offload(weights=False)
        try:
            engine.wake("weights")
            published = publish()
            trainer.offload()
            engine.wake("cache")
            yield published
        except BaseException:
            with suppress(Exception):  # what went wrong first is what is told
                engine.sleep()
            raise
        engine.sleep()
    finally:
        trainer.onload()
