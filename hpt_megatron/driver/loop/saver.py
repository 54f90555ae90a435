"""Puts a run's models and the loop's state on disk: at once, or while the next steps are made (`trainer.async_save`).

    saver = Saver(checkpoints, {"trainer": policy}, behind=True)
    saver.save(step, state, worth)      behind: the models are copied, and the loop goes on
    saver.look()                        after every step: what has been written becomes a checkpoint
    saver.settle()                      until nothing is on its way

Invariants
    1. A checkpoint that is not whole has no name, whenever a process dies: it is one of `Checkpoints`.
    2. One is on its way at a time; the next save waits for it.
    3. The models are asked from one thread, always in the same order, because ending a save is collective. What the
       other thread does, checksums and the rename, is on files alone.
    4. A step after which nothing comes is saved at once; the last one of all in the form that any layout can read.
"""

import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.driver.loop.checkpoints import Checkpoints
from hpt_megatron.driver.loop.roles import Saved

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """What is being written."""

    step: int
    folder: Path
    state: dict[str, Any]
    worth: float | None


class Saver:
    """See the module."""

    def __init__(self, checkpoints: Checkpoints, saved: Mapping[str, Saved], behind: bool) -> None:
        self.checkpoints, self.saved, self.behind = checkpoints, saved, behind
        self._begun: Begun | None = None
        self._sealing: Future[Path] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def save(
        self, step: int, state: Mapping[str, Any], worth: float | None, last: bool = False, at_once: bool = False
    ) -> None:
        """`last`: at once, and for any layout."""
        self.settle()
        behind = self.behind and not (last or at_once)
        folder = self.checkpoints.begin(step)
        # Text and back: the loop goes on and must not change what is still to be written.
        begun = Begun(step, folder, json.loads(json.dumps(state)), worth)
        for name, model in self.saved.items():
            if behind:
                model.begin_save(folder / name, {"step": step})
            else:
                model.save(folder / name, {"step": step}, last)
        if behind:
            self._begun = begun
        else:
            self._seal(begun)

    def look(self) -> None:
        """Goes on with what is written; waits for nothing."""
        if self._begun is not None and all(model.written() for model in self.saved.values()):
            self._end()
        if self._sealing is not None and self._sealing.done():
            self._sealed()

    def settle(self) -> None:
        """Until nothing is on its way."""
        if self._begun is not None:
            self._end()
        self._sealed()

    def close(self) -> None:
        """Ends the thread. What was still written by models that may be gone stays without a name."""
        self._begun = None
        self._thread.shutdown()
        if self._sealing is not None and (error := self._sealing.exception()) is not None:
            logger.warning("the last checkpoint was not sealed: %s", error)

    def _end(self) -> None:
        begun, self._begun = self._begun, None
        assert begun is not None
        for model in self.saved.values():
            model.end_save()
        self._sealed()
        self._sealing = self._thread.submit(self._seal, begun)

    def _sealed(self) -> None:
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            sealing.result()

    def _seal(self, begun: Begun) -> Path:
        return self.checkpoints.seal(begun.folder, begun.step, begun.state, begun.worth)
