"""Where numbers go, read back with the packages themselves: TensorBoard, W&B offline, MLflow in files.

Not covered: a server of W&B or MLflow.
"""

import doctest
import io
import math
import struct
import sys
import time

import pytest

from hpt_megatron.config.load import load_run
from hpt_megatron.errors import UserError
from hpt_megatron.observe.trackers import mlflow_run, tensorboard_file
from hpt_megatron.observe.trackers.place import Place
from hpt_megatron.observe.trackers.tensorboard_file import TensorBoardFile
from hpt_megatron.observe.trackers.tracker import Trackers, check_trackers, kinds_of


def curve(folder, name):
    """A curve as TensorBoard shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(folder))
    shown.Reload()
    return [(event.step, event.value) for event in shown.Scalars(name)]


def test_the_examples_hold():
    assert doctest.testmod(tensorboard_file).failed == 0
    assert doctest.testmod(mlflow_run).failed == 0


def test_tensorboard_shows_what_was_written_also_at_the_ends_of_its_precision(tmp_path):
    file = TensorBoardFile(tmp_path, 1)
    numbers = {"a/b@8": 0.25, "big": 1e39, "low": -1e39, "none": math.nan, "whole": 3, "bytes": 2.0**33}
    for step in (1, 2, 130, 70000):
        file.write(step, numbers)
    file.close()
    assert curve(tmp_path, "a/b@8") == [(1, 0.25), (2, 0.25), (130, 0.25), (70000, 0.25)]
    assert curve(tmp_path, "big")[0] == (1, math.inf)
    assert curve(tmp_path, "low")[0] == (1, -math.inf)
    assert math.isnan(curve(tmp_path, "none")[0][1])
    assert curve(tmp_path, "whole")[-1] == (70000, 3.0)
    assert curve(tmp_path, "bytes")[0] == (1, 2.0**33)


def test_a_run_that_goes_on_takes_back_what_lies_behind_its_step(tmp_path):
    first = TensorBoardFile(tmp_path, 1)
    for step in range(1, 6):
        first.write(step, {"loss": float(step)})
    first.close()
    second = TensorBoardFile(tmp_path, 3)
    second.write(3, {"loss": 30.0})
    second.close()
    assert curve(tmp_path, "loss") == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_file_torn_by_the_end_of_its_writer_hides_nothing_else(tmp_path):
    first = TensorBoardFile(tmp_path, 1)
    for step in (1, 2):
        first.write(step, {"loss": float(step)})
    first.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    second = TensorBoardFile(tmp_path, 2)
    second.write(2, {"loss": 20.0})
    second.close()
    assert curve(tmp_path, "loss") == [(1, 1.0), (2, 20.0)]


def test_a_run_writes_tensorboard_always_and_the_others_where_it_names_them(tmp_path):
    assert list(kinds_of([])) == ["tensorboard"]
    assert list(kinds_of(["console", "jsonl", "mlflow", "wandb"])) == ["tensorboard", "wandb", "mlflow"]
    trackers = Trackers(load_run(["trainer.logger=[console]"]), tmp_path, print)
    trackers.begin(1)
    trackers.write(1, {"timing_s/generate": 2.0})
    trackers.close()
    assert curve(tmp_path / "tensorboard", "timing_s/generate") == [(1, 2.0)]
    assert curve(tmp_path / "tensorboard", "timing_s/gen") == [(1, 2.0)], "also as others know it"


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(tmp_path):
    shown = io.StringIO()
    trackers = Trackers(load_run([]), tmp_path, lambda line: shown.write(f"{line}\n"))
    trackers.begin(1)
    trackers._open["tensorboard"].close()  # as a disk that is gone
    for step in (1, 2, 3):
        trackers.write(step, {"loss": 1.0})
    trackers.begin(2)
    trackers.close()
    assert shown.getvalue().count("\n") == 1
    assert "tensorboard failed and gets nothing more: ValueError" in shown.getvalue()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_one_line_before_anything_starts(name, tmp_path, monkeypatch, capsys):
    from hpt_megatron.cli.main import main

    monkeypatch.setitem(sys.modules, name, None)  # as if it were not there
    with pytest.raises(UserError, match="is not installed"):
        check_trackers(["console", name])
    folder = tmp_path / "run"
    assert main(["train", f"trainer.logger=[{name}]", f"trainer.run_dir={folder}"]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert f"{name} is asked for and its package is not installed" in said.err
    assert not folder.exists()


def place(folder, first):
    return Place(folder, first, "a project", "a name", {"trainer": {"lr": 0.1}})


@pytest.mark.slow
def test_mlflow_has_the_curve_and_a_run_that_goes_on_is_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra `trackers` is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = mlflow_run.open_mlflow(place(tmp_path, 1))
    first.write(1, {"val/avg@8/count": 0.5, "loss": 1.0})
    first.write(2, {"loss": 2.0})
    first.close()
    second = mlflow_run.open_mlflow(place(tmp_path, 2))
    second.write(2, {"loss": 20.0})
    second.close()
    assert second.id == first.id
    history = second.client.get_metric_history(second.id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 2.0), (2, 20.0)]
    found = second.client.get_run(second.id)
    assert found.data.metrics["val/avg_at_8/count"] == 0.5
    assert (found.info.run_name, found.info.status) == ("a name", "FINISHED")
    assert (tmp_path / "mlruns").is_dir()


def written_offline(folder):
    """The records of W&B's offline files, which are a log of blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, at, piece = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if (left := -at % 32768) and left < 7:
                at += left
                continue
            _, length, kind = struct.unpack_from("<IHB", data, at)
            piece += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # the whole of a record, or its last part
                record = wandb_internal_pb2.Record()
                record.ParseFromString(piece)
                piece = b""
                yield record


@pytest.mark.slow
def test_wandb_writes_a_run_offline_without_a_key_and_goes_on_in_it(tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb", reason="the extra `trackers` is not installed")
    from hpt_megatron.observe.trackers.wandb_run import open_wandb

    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB__SERVICE_WAIT", "240")  # for its own process to start, on a host that is busy
    first = open_wandb(place(tmp_path, 1))
    first.write(1, {"loss": 1.0, "val/avg@8/count": 0.5})
    first.write(2, {"loss": 2.0})
    first.close()
    time.sleep(1.1)  # W&B names what it writes by the second
    second = open_wandb(place(tmp_path, 2))
    second.write(2, {"loss": 20.0})
    second.close()
    records = list(written_offline(tmp_path))
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {(run.project, run.display_name) for run in runs} == {("a project", "a name")}
    assert len({run.run_id for run in runs}) == 1
    told = [
        {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(line["_step"], float(line["loss"])) for line in told] == [("1", 1.0), ("2", 2.0), ("2", 20.0)]
    assert told[0]["val/avg@8/count"] == "0.5"
    assert "wandb:" not in capfd.readouterr().out, "it says nothing of its own between the lines of the run"
