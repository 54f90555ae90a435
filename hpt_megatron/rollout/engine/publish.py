"""New weights from the trainer to its engines: who meets whom, and in which order.

    pause generation and clear caches, start, update while the trainer sends, finish with the version, resume

`send` is whatever makes all processes of the trainer call `worker.send`; in one process it is that method, on a cluster
the call of a worker group. It runs while the engines take.

Invariants
    1. Each engine goes through the whole sequence or refuses to generate.
    2. After a failure the session is over: `meeting` opens the next, and the next publish is of everything.

Example:
    session, meetings = meeting(run, engines=1)
    together(lambda: worker.meet(session), [lambda: engine.meet(meetings[0])], session.close)
    publish([engine], worker.send, ALL, version="1")
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, Protocol

from hpt_megatron.config.run import RunConfig
from hpt_megatron.config.shapes import shapes
from hpt_megatron.weights.plan.held import Layout
from hpt_megatron.weights.plan.parcels import fingerprint, parcels, plain, received_by
from hpt_megatron.weights.plan.publish import ALL, plans_of_run
from hpt_megatron.weights.publish.digests import Digests, compare
from hpt_megatron.weights.publish.session import Kind, Session, open_place

TORCH_NAMES = {"bf16": "bfloat16", "fp32": "float32"}
Meeting = dict[str, Any]


class Taker(Protocol):
    """An engine, as far as publishing needs one."""

    @property
    def whole(self) -> bool:
        """Whether its weights are those of one version."""

    def paused(self, version: str) -> contextlib.AbstractContextManager[None]:
        """Open for new weights."""

    def take(self, which: str) -> None:
        """Takes a plan to its end."""

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """Of every rank."""


def meeting(
    run: RunConfig, engines: int, kind: Kind = "shared", device: str = "cpu", place: str = "", timeout_s: float = 600
) -> tuple[Session, list[Meeting]]:
    """A session for so many engines, and what each of them must know; `close` the session when it is over."""
    plans = plans_of_run(run, engines)
    packed = {which: parcels(plan) for which, plan in plans.items()}
    everything = plans[ALL]
    if kind == "shared":
        place = open_place(sum(2 * max(parcel.size for parcel in bucket) for bucket in packed[ALL][:2]))
    senders, receivers = everything.source.ranks, everything.target.ranks
    mark = fingerprint(everything)
    session = Session(kind, device, place, mark, senders, receivers, timeout_s)  # type: ignore[arg-type]
    tp = run.rollout.tensor_parallel_size
    whole = {name: list(shape) for name, shape in shapes(run.model).items()}
    told = []
    for first in range(0, receivers, tp):
        by_rank = [
            {
                "held": held_by(everything.target, rank),
                "crates": {which: plain(received_by(plan, packed[which], rank)) for which, plan in plans.items()},
            }
            for rank in range(first, first + tp)
        ]
        about = {"session": session.plain(), "first_rank": first, "dtype": TORCH_NAMES[run.trainer.dtype]}
        told.append({**about, "shapes": whole, "by_rank": by_rank})
    return session, told


def held_by(layout: Layout, rank: int) -> list[tuple[str, int, list[list[Any]]]]:
    """What a layout says that a rank holds: (parameter, axis, parts)."""
    return [
        (parameter.name, parameter.axis, [list(part) for part in share.parts])
        for parameter in layout.parameters
        for share in parameter.shares
        if rank in share.ranks
    ]


def together(
    sending: Callable[[], Any], takings: Sequence[Callable[[], Any]], give_up: Callable[[], None] = lambda: None
) -> Any:
    """Both sides at once. When all have ended, which `give_up` helps them to, the sender's failure is raised before
    those of takers: they fail because it does.
    """
    with ThreadPoolExecutor(1 + len(takings)) as pool:
        works = [pool.submit(each) for each in (sending, *takings)]
        done, _ = wait(works, return_when=FIRST_EXCEPTION)
        if any(work.exception() is not None for work in done):
            give_up()
    errors = [error for work in works if (error := work.exception()) is not None]
    if errors:
        raise errors[0]
    return works[0].result()


def publish(engines: Sequence[Taker], send: Callable[[str], Any], which: str, version: str) -> Any:
    """One publish to engines of one session; answers what `send` does."""
    which = which if all(engine.whole for engine in engines) else ALL
    with contextlib.ExitStack() as stack:
        for engine in engines:
            stack.enter_context(engine.paused(version))
        return together(lambda: send(which), [_taking(engine, which) for engine in engines])


def _taking(engine: Taker, which: str) -> Callable[[], None]:
    return lambda: engine.take(which)


def verify(engine: Taker, layout: Layout, trained: Mapping[str, str]) -> None:
    """Compares what one engine computes with to digests of what the trainer holds; a difference names the tensors."""
    served: Digests = {}
    ranks = [held_by(layout, rank) for rank in range(layout.ranks)]
    for told in engine.ask("hpt_digests", ranks):
        for name, value in told.items():
            if served.setdefault(name, value) != value:  # two ranks hold the same rows, and differ
                served[name] = "differs between ranks"
    compare(trained, served)
