"""`hpt log stats`: real trajectories of the agent, written, read and counted."""

import json

import pytest

from hpt_megatron.cli.main import main
from hpt_megatron.rollout.trajectory import Builder, TurnNote
from hpt_megatron.rollout.trajectory_file import append


def written(path, times, finish="answered"):
    """Trajectories of one turn with a search each."""
    for i, seconds in enumerate(times):
        builder = Builder("7", i)
        builder.prompt([1])
        builder.turn([2], [-0.1], ["0"])
        note = TurnNote("", "search", "k07", outcome="shown", num_tokens=1, generate_s=2 * seconds, tool_s=seconds)
        builder.notes.append(note)
        append(path, [builder.freeze(finish, seconds={"total_s": 3 * seconds})])


def test_latency_is_told_by_event_with_times_that_occurred(tmp_path, capsys):
    path = tmp_path / "step.jsonl"
    written(path, [i / 100 for i in range(1, 101)])
    written(path, [9.0], "infra_error")
    assert main(["log", "stats", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["finish"] == {"answered": 100, "infra_error": 1}
    search = told["latency_s"]["search"]
    assert search == {"count": 101.0, "mean": pytest.approx(59.5 / 101), "p50": 0.51, "p95": 0.96, "p99": 1.0, "max": 9}
    assert told["latency_s"]["generation"]["p95"] == 1.92
    assert told["latency_s"]["trajectory"]["max"] == 27
    assert main(["log", "stats", str(path)]) == 0
    text = capsys.readouterr().out
    assert "search                  101     0.589     0.510     0.960     1.000     9.000" in text
    assert "ended as  answered 100, infra_error 1" in text


def test_a_file_that_still_grows_is_read_and_the_rest_of_it_counted(tmp_path, capsys):
    path = tmp_path / "step.jsonl"
    written(path, [0.1, 0.2])
    with path.open("a") as file:
        file.write('{"kind": "traj')
    assert main(["log", "stats", str(path)]) == 0
    assert "lines that are no trajectory: 1" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[[[[", '{"turns": 3}\n', "\x00", None])
def test_what_holds_no_trajectory_is_refused_in_a_line(tmp_path, capsys, content):
    path = tmp_path / "other.jsonl"
    if content is not None:
        path.write_text(content)
    assert main(["log", "stats", str(path)]) == 2
    told = capsys.readouterr()
    assert str(path) in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
