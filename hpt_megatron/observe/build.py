"""A run's journal with everyone whom the run wants told.

Example:
    with open_journal(run, folder, total, sys.stdout, questions) as journal: journal.begin(0)
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hpt_megatron.config.run import RunConfig
from hpt_megatron.observe.display import display_for
from hpt_megatron.observe.generations import Generations
from hpt_megatron.observe.gpu_monitor import GPUMonitor
from hpt_megatron.observe.journal import Journal, Watchers
from hpt_megatron.observe.log_file import log_file
from hpt_megatron.observe.monitors import Monitors
from hpt_megatron.observe.trackers.tracker import Trackers

LOG, EVERY = "train.log", 0.5
"""Seconds between two samples of memory."""


@contextmanager
def open_journal(
    run: RunConfig, folder: Path, total: int, shown: TextIO, questions: Mapping[str, str]
) -> Iterator[Journal]:
    """`questions` are what is asked at a validation, by uid; all of it is closed however the run ends."""
    trainer = run.trainer
    display = display_for(shown, total)
    elsewhere = trainer.generation_log_dir
    usage = GPUMonitor(interval=EVERY)
    watchers = Watchers(
        display=display,
        trackers=Trackers(run, folder, display.tell),
        monitors=Monitors(run),
        usage=usage,
        generations=Generations(trainer.log_val_generations, None if elsewhere is None else Path(elsewhere)),
        questions=questions,
    )
    journal = Journal(folder, total, shown, watchers)
    if trainer.profile_memory:
        usage.sampled = journal.sampled
    usage.start()
    with log_file(folder / LOG):
        try:
            yield journal
        finally:
            journal.close()
