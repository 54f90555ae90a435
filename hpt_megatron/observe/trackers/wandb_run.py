"""Weights & Biases. Online where its own settings say so, else offline: a run never stops to ask for a key.

The id of the run is kept in the run's folder, so that a resumed run goes on under it. W&B has no way to take steps
back: those that a resumed run makes again stay as the first attempt told them, and are told anew by `metrics.jsonl`.

Example: `trainer.logger=[wandb] trainer.project_name=mine`, then `wandb sync RUN/wandb/offline-run-*`
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpt_megatron.observe.trackers.place import Place, remembered

ID = "wandb_id"


def mode() -> str:
    """`online` with a key or where it is asked for, else `offline`."""
    given = os.environ.get("WANDB_MODE")
    if given:
        return given
    return "online" if os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").is_file() else "offline"


class WandbRun:
    """See the module."""

    def __init__(self, place: Place) -> None:
        import wandb

        made = hashlib.sha256(f"{place.folder.resolve()}{os.urandom(8).hex()}".encode()).hexdigest()[:12]
        how: Any = mode()
        self.run: Any = wandb.init(
            project=place.project,
            name=place.name,
            id=remembered(place.folder / ID, made),
            dir=str(place.folder),
            config=dict(place.settings),
            mode=how,
            resume="allow" if how == "online" else None,
            settings=wandb.Settings(console="off", silent=True),
        )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step."""
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Waits until everything is written."""
        self.run.finish()


def open_wandb(place: Place) -> WandbRun:
    """Starts or goes on."""
    return WandbRun(place)
