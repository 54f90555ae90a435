"""A writer for megatron-core's checkpoints that stays in its process and thread.

The stock writer starts a manager process and forks one process per file. A fork copies the memory of a process in
which other threads (Ray's, gloo's) may hold locks, and those stay locked for ever in the copy.

What is given up: several files of one rank are written one after the other. In the background writes `background.py`.
"""

import queue
from typing import Any

from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync


class InProcessWriter(FileSystemWriterAsync):
    """The stock writer with its forks replaced by a loop."""

    @staticmethod
    def write_preloaded_data_multiproc(
        transform_list: list[Any], use_msc: bool, rank: int, write_buckets: list[Any], global_results_queue: Any
    ) -> None:
        """Writes every file and reports in the form that the stock writer's caller expects."""
        results: dict[int, Any] = {}
        for index, bucket in enumerate(write_buckets):
            done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
            left: queue.Queue[int] = queue.Queue()
            left.put(index)
            FileSystemWriterAsync.write_preloaded_data(
                transform_list, index, bucket, done, left, use_fsync=True, use_msc=use_msc
            )
            _, outcome = done.get()
            if isinstance(outcome, Exception):
                global_results_queue.put(outcome)
                return
            results[index] = outcome
        global_results_queue.put(results)
