"""MLflow: where `MLFLOW_TRACKING_URI` points, else a store of files in the run's folder.

The id of its run is kept in the run's folder, so that a resumed run goes on in it. A step that is made again is
written again; MLflow keeps both and shows the last.

Example: `trainer.logger=[mlflow]`, then `mlflow ui --backend-store-uri RUN/mlruns`
"""

import os
import re
import time
from collections.abc import Mapping
from typing import Any

from hpt_megatron.observe.trackers.place import Place, remembered

ID, STORE = "mlflow_id", "mlruns"
MOST = 500
"""Metrics that one call may bring."""
REFUSED = re.compile(r"[^\w\-. :/]")


def accepted(name: str) -> str:
    """A name as MLflow takes it.

    >>> accepted("val/avg@8/count")
    'val/avg_at_8/count'
    """
    return REFUSED.sub("_", name.replace("@", "_at_"))


class MlflowRun:
    """See the module."""

    def __init__(self, place: Place) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # its maintainers would rather have a data base
        from mlflow.tracking import MlflowClient

        store = os.environ.get("MLFLOW_TRACKING_URI") or (place.folder.resolve() / STORE).as_uri()
        self.client: Any = MlflowClient(tracking_uri=store)
        known = (place.folder / ID).is_file()
        self.id = remembered(place.folder / ID, "" if known else self._made(place))
        self.client.update_run(self.id, status="RUNNING")

    def _made(self, place: Place) -> str:
        found = self.client.get_experiment_by_name(place.project)
        experiment = found.experiment_id if found else self.client.create_experiment(place.project)
        return str(self.client.create_run(experiment, run_name=place.name).info.run_id)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(accepted(name), float(number), now, step) for name, number in numbers.items()]
        for first in range(0, len(metrics), MOST):
            self.client.log_batch(self.id, metrics[first : first + MOST])

    def close(self) -> None:
        """The run is over, until it goes on."""
        self.client.set_terminated(self.id)


def open_mlflow(place: Place) -> MlflowRun:
    """Starts or goes on."""
    return MlflowRun(place)
