"""What a tracker is, which of them a run has, and what happens when one fails.

    check_trackers(run.trainer.logger)           before anything heavy starts: what is asked for is installed
    trackers = Trackers(run, folder, tell)
    trackers.begin(first)                        opens all of them, to write from step `first` on
    trackers.write(7, {"actor/loss": 0.1})

Invariants
    1. Nothing of W&B or MLflow is imported unless the run names it.
    2. A tracker that fails is told once and left alone from then on; it does not end the run.
    3. No step stands twice where it is looked at: what an earlier attempt wrote from `first` on is void.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from hpt_megatron.config.problem import one_line
from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import UserError
from hpt_megatron.observe.names import with_known_names
from hpt_megatron.observe.trackers.mlflow_run import open_mlflow
from hpt_megatron.observe.trackers.place import Place
from hpt_megatron.observe.trackers.tensorboard_file import open_tensorboard
from hpt_megatron.observe.trackers.wandb_run import open_wandb


class Tracker(Protocol):
    """One of them, open."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step."""

    def close(self) -> None:
        """Everything is where it belongs."""


@dataclass(frozen=True)
class Kind:
    """How one is opened, and the package that it needs."""

    opened: Callable[[Place], Tracker]
    package: str = ""


ALWAYS = "tensorboard"
KINDS = {
    ALWAYS: Kind(open_tensorboard),
    "wandb": Kind(open_wandb, "wandb"),
    "mlflow": Kind(open_mlflow, "mlflow"),
}
"""`console` and `jsonl` may be named as well; they are there in any case and are no trackers."""


def check_trackers(logger: Sequence[str]) -> None:
    """Refuses a tracker whose package is not installed."""
    for name in logger:
        package = KINDS[name].package if name in KINDS else ""
        if package and find_spec(package) is None:
            mend = "pip install 'hpt_megatron[trackers]', or leave it out"
            raise UserError(f"{name} is asked for and its package is not installed", where="trainer.logger", mend=mend)


def kinds_of(logger: Sequence[str]) -> dict[str, Kind]:
    """Those of a run."""
    return {name: kind for name, kind in KINDS.items() if name == ALWAYS or name in logger}


class Trackers:
    """All of a run; see the module."""

    def __init__(self, run: RunConfig, folder: Path, tell: Callable[[str], None]) -> None:
        self.run, self.folder, self.tell = run, folder, tell
        self.kinds = kinds_of(run.trainer.logger)
        self._open: dict[str, Tracker] = {}

    def begin(self, first: int) -> None:
        """Opens them, again where a run goes on."""
        self.close()
        trainer = self.run.trainer
        name = trainer.experiment_name or self.folder.resolve().name
        place = Place(self.folder, first, trainer.project_name, name, asdict(self.run))
        for kind, how in self.kinds.items():
            self._guarded(kind, partial(self._start, kind, how, place))

    def _start(self, kind: str, how: Kind, place: Place) -> None:
        self._open[kind] = how.opened(place)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """To each of them."""
        told = with_known_names(numbers)
        for kind, tracker in list(self._open.items()):
            self._guarded(kind, partial(tracker.write, step, told))

    def close(self) -> None:
        """All of them."""
        for kind, tracker in list(self._open.items()):
            self._guarded(kind, tracker.close)
        self._open = {}

    def _guarded(self, kind: str, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:  # whatever another package raises: the run matters more than its curves
            self._open.pop(kind, None)
            self.kinds = {name: how for name, how in self.kinds.items() if name != kind}
            said = one_line(f"{type(error).__name__}: {error}".splitlines()[0])
            self.tell(f"  {kind} failed and gets nothing more: {said}")
