"""What a run folder says about the run that it belongs to: its whole configuration, and marks of what it works with.

    RUN/run.json      every key
    RUN/marks.json    fingerprints of tokenizer, images and mask (`rollout/marks.py`)

Invariant: a folder belongs to one run. Another configuration is refused before anything in it is touched, but for keys
that say how long, how often, where and on how many devices: those may change when a run goes on.

Example: write_record(run, Path("runs/a")); check_record(other, Path("runs/a"))
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import UserError

NAME, MARKS = "run.json", "marks.json"
MAY_CHANGE = (
    "layout.",
    "rollout.replicas",
    "rollout.tensor_parallel_size",
    "rollout.gpu_memory_utilization",
    "trainer.run_dir",
    "trainer.resume",
    "trainer.placement",
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
    "trainer.total_epochs",
    "trainer.total_training_steps",
    "trainer.save_freq",
    "trainer.record_freq",
    "trainer.test_freq",
    "trainer.keep_last",
    "trainer.max_restarts",
)
SHOWN = 3


def check_record(run: RunConfig, folder: Path) -> None:
    """Refuses a folder of another run."""
    path = folder / NAME
    if not path.exists():
        return
    try:
        before = dict(_leaves(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError("its record cannot be read", where=str(path), mend="another trainer.run_dir") from error
    now = dict(_leaves(_plain(run)))
    wrong = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    wrong = [key for key in wrong if not key.startswith(MAY_CHANGE)]
    if wrong:
        told = ", ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in wrong[:SHOWN])
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UserError(f"belongs to another run: {told}{more}", where=str(folder), mend="another trainer.run_dir")


def check_marks(marks: Mapping[str, str], folder: Path) -> None:
    """Refuses a run whose tokenizer, images or mask are no longer what they were; the first time writes them down."""
    path = folder / MARKS
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if wrong := sorted(name for name in marks if before.get(name) != marks[name]):
            what = f"the model's folder has changed since the run began: {', '.join(wrong)}"
            raise UserError(what, where=str(path), mend="the folder as it was, or another trainer.run_dir")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(marks, indent=1) + "\n", encoding="utf-8")


def write_record(run: RunConfig, folder: Path) -> None:
    """The run as it was asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{NAME}.new"
    beside.write_text(json.dumps(_plain(run), indent=1) + "\n", encoding="utf-8")
    beside.replace(folder / NAME)


def _plain(run: RunConfig) -> Any:
    return json.loads(json.dumps(asdict(run)))


def _leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
