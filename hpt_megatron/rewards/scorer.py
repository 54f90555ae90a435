"""Scores the rollouts of a step: many at once, group by group, each in its own time.

    with Scorer(composition) as scorer:
        group = scorer.submit(samples)      # at once; a Future of what `composition.score` says of each, in order
        group.result()

Decision: threads wait, for processes (`workers.py`), for the network, or compute what is pure and short. A sample that
is not done in `seconds` gets a result without its thread; the thread, which cannot be ended, is left behind and another
takes its place.

Invariants
    1. Every sample gets a `Scored`, in the order that it was given in; nothing here raises but a closed scorer.
    2. A failure is a flag of its row. It changes no other row and no later one.
    3. A group is done as soon as its own samples are, whatever else is waiting. Closing waits for no sample.

Example:
    >>> from hpt_megatron.rewards.composition_file import read_composition
    >>> composition = read_composition({"components": [{"name": "format", "weight": 0.1}]})
    >>> with Scorer(composition) as scorer:
    ...     [row.total for row in scorer.score([Sample(turns=("<answer>4</answer>",))])]
    [0.1]
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from statistics import fmean

from hpt_megatron.errors import HptError
from hpt_megatron.rewards.component import Sample
from hpt_megatron.rewards.composition import ERROR, TOTAL, Composition, Scored
from hpt_megatron.rewards.judge import Judge
from hpt_megatron.rewards.workers import Workers

WATCH_SECONDS = 0.25


class _Item:
    """One sample on its way; whoever finishes it first, the thread or the watch, has the word."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.done: Future[Scored] = Future()
        self.deadline = float("inf")
        self._lock = threading.Lock()

    def finish(self, scored: Scored) -> bool:
        with self._lock:
            if self.done.done():
                return False
            self.done.set_result(scored)
            return True


class Scorer:
    """A composition at work; it owns the workers and the judge that it is given, and closes them."""

    def __init__(
        self,
        composition: Composition,
        *,
        threads: int = 4,
        seconds: float = 600.0,
        workers: Workers | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.composition, self.seconds = composition, seconds
        self.workers, self.judge = workers, judge
        self.left_behind = 0
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._running: set[_Item] = set()
        self._threads = threads
        self._closed = threading.Event()
        self._door = threading.Lock()
        for _ in range(threads):
            self._thread(self._work)
        self._thread(self._watch)

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, samples: Sequence[Sample]) -> "Future[list[Scored]]":
        """Starts a group; the future is done when all of it is scored."""
        items = [_Item(sample) for sample in samples]
        group: Future[list[Scored]] = Future()
        missing = [len(items)]
        lock = threading.Lock()

        def one_less(_: object) -> None:
            with lock:
                missing[0] -= 1
                last = missing[0] == 0
            if last:
                group.set_result([item.done.result() for item in items])

        if not items:
            group.set_result([])
        with self._door:
            if self._closed.is_set():
                raise HptError("the scorer is closed")
            for item in items:
                item.done.add_done_callback(one_less)
                self._items.put(item)
        return group

    def score(self, samples: Sequence[Sample]) -> list[Scored]:
        """A group, waited for."""
        return self.submit(samples).result()

    def metrics(self, scored: Sequence[Scored]) -> dict[str, float]:
        """`reward_metrics`, with what the workers and the judge have done since the start."""
        metrics = reward_metrics(scored) | {"reward/threads_left_behind": float(self.left_behind)}
        if self.workers is not None:
            metrics["reward/workers_replaced"] = float(self.workers.replaced)
        return metrics | (self.judge.metrics() if self.judge is not None else {})

    def close(self) -> None:
        """Ends threads, workers and the judge; what is not done is answered as lost, begun or not."""
        with self._door:
            self._closed.set()
        while True:
            try:
                item = self._items.get_nowait()
            except queue.Empty:
                break
            if item is not None:
                self._lose(item)
        for item in self._running.copy():
            self._lose(item)
        for _ in range(self._threads):
            self._items.put(None)
        if self.workers is not None:
            self.workers.close()
        if self.judge is not None:
            self.judge.close()

    def _lose(self, item: _Item) -> None:
        item.finish(self.composition.lost(item.sample, "closed", "the scorer was closed"))

    def _thread(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name="reward", daemon=True).start()

    def _work(self) -> None:
        while (item := self._items.get()) is not None:
            item.deadline = time.monotonic() + self.seconds
            self._running.add(item)
            if self._closed.is_set():  # taken while `close` looked through the others
                self._lose(item)
                return
            try:
                scored = self.composition.score(item.sample)
            except BaseException as error:  # an exit that a component asks for, as well
                scored = self.composition.lost(item.sample, ERROR, f"{type(error).__name__}: {error}")
            self._running.discard(item)
            if not item.finish(scored):
                return  # too late, and replaced

    def _watch(self) -> None:
        while not self._closed.wait(min(WATCH_SECONDS, self.seconds / 4)):
            now = time.monotonic()
            for item in [item for item in self._running.copy() if item.deadline < now]:
                self._running.discard(item)
                if item.finish(self.composition.lost(item.sample, "timeout", f"not done in {self.seconds:g} s")):
                    self.left_behind += 1
                    self._thread(self._work)


def reward_metrics(scored: Sequence[Scored]) -> dict[str, float]:
    """What a step logs: means over the rows that are valid, failures and flags over all of them.

    >>> from hpt_megatron.rewards.composition_file import read_composition
    >>> composition = read_composition({"components": [{"name": "format", "weight": 0.1}]})
    >>> metrics = reward_metrics([composition.score(Sample(turns=("<answer>4</answer>",)))])
    >>> metrics["reward/mean"], metrics["reward/component/format"], metrics["reward/errors"]
    (0.1, 1.0, 0.0)
    """
    metrics = {
        "reward/errors": float(sum(row.failed for row in scored)),
        "reward/invalid": float(sum(not row.valid for row in scored)),
    }
    if valid := [row for row in scored if row.valid]:
        metrics["reward/mean"] = fmean(row.total for row in valid)
        for name in valid[0].components:
            if name != TOTAL:
                metrics[f"reward/component/{name}"] = fmean(row.components[name] for row in valid)
        if valid[0].success is not None:
            metrics["reward/success"] = fmean(float(bool(row.success)) for row in valid)
    flags = Counter(flag for row in scored for flag in row.flags)
    gates = Counter(gate for row in scored for gate in row.gated)
    metrics |= {f"reward/flag/{flag}": float(count) for flag, count in sorted(flags.items())}
    return metrics | {f"reward/gate/{gate}": float(count) for gate, count in sorted(gates.items())}
