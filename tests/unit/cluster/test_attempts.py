"""What happens after an attempt, from the files that its nodes left: every way in which one ends."""

import json

import pytest

from hpt_megatron.cluster.attempt import attempts, begin, end, fruitless, result
from hpt_megatron.cluster.job import Job, Point
from hpt_megatron.cluster.meeting import Meeting
from hpt_megatron.cluster.verdict import Facts, Verdict, judge
from hpt_megatron.config.cluster import read_cluster

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("code", "unhealthy", "without", "trains", "again", "left_with"),
    [
        (0, (), 0, True, False, 0),
        (0, ("node1",), 0, True, False, 0),  # who has ended has ended
        (2, (), 0, True, False, 2),
        (3, (), 0, True, False, 3),
        (75, (), 0, True, True, 75),
        (75, (), 2, True, True, 75),
        (75, (), 3, True, False, 1),
        (1, (), 0, True, True, 1),
        (1, (), 3, True, False, 1),
        (1, (), 0, False, False, 1),
        (None, (), 0, True, True, 1),
        (None, (), 0, False, False, 1),
        (None, ("node1", "node2"), 0, False, True, 1),
        (-9, (), 0, True, True, -9),
    ],
)
def test_each_end_has_its_verdict(code, unhealthy, without, trains, again, left_with):
    found = judge(Facts(code, unhealthy, without, trains), most=3, on_failure=True)
    assert (found.again, found.code) == (again, left_with)


def test_who_does_not_want_failures_tried_again_is_obeyed():
    assert not judge(Facts(1, (), 0, True), most=3, on_failure=False).again
    assert judge(Facts(75, (), 0, True), most=3, on_failure=False).again


def test_the_script_reads_three_words():
    assert str(Verdict(True, 75, ("node1", "node2"), "")) == "again 75 node1,node2"
    assert str(Verdict(False, 0, (), "")) == "end 0"


def job_in(folder, trains=True):
    cluster = read_cluster(["cluster.exclude=node9", "cluster.fruitless=2"], None)[0]
    points = (Point(folder / "a", ("train",)), Point(folder / "b", ("train",)))
    return Job("hpt-a", points, 2, 1, 0, trains, cluster, {})


def made(run, step):
    """A checkpoint, as far as its name goes."""
    folder = run / "checkpoints" / f"step_{step}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def test_attempts_are_numbered_and_each_task_of_an_array_has_its_own_run(tmp_path):
    job = job_in(tmp_path)
    assert begin(job, {}) == tmp_path / "a" / "attempt_0"
    assert begin(job, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}) == tmp_path / "a" / "attempt_1"
    assert begin(job, {"SLURM_ARRAY_TASK_ID": "1"}) == tmp_path / "b" / "attempt_0"
    told = json.loads((tmp_path / "a" / "attempt_1" / "begun.json").read_text())
    assert (told["job"], told["restart"], told["token"], told["checkpoint"]) == ("7", 1, "7.1.1", None)
    for number in range(2, 12):
        assert begin(job, {}).name == f"attempt_{number}"
    assert [path.name for path in attempts(tmp_path / "a")][-2:] == ["attempt_10", "attempt_11"]


def test_attempts_without_a_newer_checkpoint_are_counted_from_the_last_one_back(tmp_path):
    job, run = job_in(tmp_path), tmp_path / "a"
    assert fruitless(run) == 0
    begin(job, {})
    assert fruitless(run) == 1
    made(run, 3)
    assert fruitless(run) == 0
    begin(job, {})
    begin(job, {})
    assert fruitless(run) == 2
    made(run, 4)
    assert fruitless(run) == 0


def test_nodes_that_were_kept_out_before_stay_out(tmp_path):
    """SLURM's list is set anew each time; the profile's own nodes are on it."""
    job = job_in(tmp_path)
    for number, name in enumerate(("node3", "node4")):
        attempt = begin(job, {})
        Meeting(attempt, 1, 2, {"node": name}).say("unhealthy", why="it is hot")
        Meeting(attempt, 0, 2, {"node": "node1"}).say("ended", code=1, why="node ill")
        verdict = end(job, attempt, 1)
        assert verdict.again == (number == 0), "two attempts without a checkpoint are enough"
    assert str(verdict).startswith("end 1 node9,node3,node4")
    told = result(tmp_path / "a" / "attempt_1")
    assert [each["state"] for each in told["nodes"]] == ["ended", "unhealthy"]
    assert told["step_code"] == 1


def test_a_first_node_that_said_nothing_at_its_end_has_no_code(tmp_path):
    attempt = begin(job_in(tmp_path), {})
    Meeting(attempt, 0, 2, {"node": "node1"}).say("running", code=0)
    assert str(end(job_in(tmp_path), attempt, 137)) == "again 1"


def test_a_meeting_waits_for_all_and_ends_with_the_first_that_ends(tmp_path):
    first, second = (Meeting(tmp_path, rank, 2, {"node": f"node{rank + 1}"}) for rank in (0, 1))
    first.say("ready")
    assert "nothing was heard of nodes [1]" in first.wait(0.0, lambda said: len(said) == 2, lambda: "")
    assert first.wait(0.0, lambda said: len(said) == 2, lambda: "it died") == "it died"
    second.say("ready")
    assert first.wait(0.0, lambda said: len(said) == 2, lambda: "") == ""
    second.say("failed", why="no room")
    assert first.wait(0.0, lambda said: False, lambda: "") == "node2 failed: no room"
    (tmp_path / "node_1.json").unlink()
    (tmp_path / "stop").touch()
    assert first.wait(1e9, lambda said: False, lambda: "") == "asked to stop"
