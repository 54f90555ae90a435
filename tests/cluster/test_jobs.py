"""Jobs on a real SLURM: a run on two nodes to its end, one that is cut off, one that dies, nodes that are not well."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from conftest import Site

from hpt_megatron.driver.loop.checkpoints import Checkpoints, files_of
from hpt_megatron.host.network import address_of
from hpt_megatron.host.ports import BLOCK, RANGE

pytestmark = pytest.mark.slow

SUPERVISED = (
    *("sft", "layout=tp1", "trainer.n_gpus_per_node=1", "trainer.total_training_steps=60", "data.train_batch_size=32"),
    *(
        "trainer.ppo_mini_batch_size=32",
        "trainer.total_epochs=null",
        "trainer.save_freq=25",
        "trainer.test_freq=0",
        "trainer.deterministic=true",
        "rollout.agent_driver=lockstep",
    ),
)
"""A run without an engine: what a job does to a run is the same, and it starts in seconds."""
LONGER = 320


def result(attempt: Path) -> dict:
    return json.loads((attempt / "result.json").read_text(encoding="utf-8"))


def until(there, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.2)


def weights(run: Path) -> dict:
    """Every file of tensors in the last checkpoint, by name, with its digest: weights, moments, all of it."""
    files = files_of(Checkpoints(run / "checkpoints", 1).newest() / "trainer")
    return {name: digest for name, digest in files.items() if name.endswith(".distcp")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, slurm) -> dict:
    """What the supervised run comes to where nothing happens to it."""
    site = Site(tmp_path_factory.mktemp("undisturbed"), slurm)
    site.hpt(SUPERVISED[0], *SUPERVISED[1:], "trainer.run_dir=run")
    return weights(site.folder / "run")


def test_a_run_on_two_nodes_to_its_end(site: Site) -> None:
    """With rollouts and weights sent between nodes, beside somebody who has a port of the job's first block."""
    address = address_of(None)
    ports = range(RANGE[0], RANGE[1], BLOCK)
    taken = [socket.create_server((address, port)) for port in ports[: len(ports) // 2]]
    try:
        number = site.submit(
            *("layout=tp1", "trainer.nnodes=2", "trainer.n_gpus_per_node=1", "trainer.run_dir=run"),
            *("trainer.total_training_steps=3", "trainer.sft_warmup_steps=1", "trainer.lr_warmup_steps=0"),
            *("trainer.save_freq=0", "trainer.test_freq=0", "rollout.verify_every=1"),
        )
        facts = site.slurm.wait(number, 500)
    finally:
        for each in taken:
            each.close()
    said = site.log("run", number)
    assert (facts["JobState"], facts["ExitCode"]) == ("COMPLETED", "0:0"), said
    told = result(site.folder / "run" / "attempt_0")
    assert (told["again"], told["code"], told["checkpoint"]) == (False, 0, 3)
    assert [(each["node"], each["state"], each["code"]) for each in told["nodes"]] == [
        ("node1", "ended", 0),
        ("node2", "ended", 0),
    ]
    used = [int(each["address"].rpartition(":")[2]) for each in told["nodes"]]
    assert len(set(used)) == 2
    assert min(used) >= ports[len(ports) // 2]
    assert not (site.folder / "run" / "attempt_0" / "ray_token").exists()
    assert "\x1b" not in said, "a log is no terminal"
    steps = [json.loads(line) for line in (site.folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert steps[-1]["batch/rollouts"] > 0


def test_engines_on_nodes_of_their_own(site: Site) -> None:
    """Two components of one job: ranks on the first one's node, the engine on the second one's."""
    number = site.submit(
        *("layout=tp1", "trainer.n_gpus_per_node=1", "trainer.run_dir=run", "cluster.rollout_nodes=1"),
        *("trainer.total_training_steps=1", "trainer.lr_warmup_steps=0", "trainer.test_freq=0"),
    )
    facts = site.slurm.wait(number, 500)
    said = site.log("run", number)
    assert (facts["JobState"], facts["ExitCode"]) == ("COMPLETED", "0:0"), said
    told = result(site.folder / "run" / "attempt_0")
    assert [(each["rank"], each["node"], each["state"]) for each in told["nodes"]] == [
        (0, "node1", "ended"),
        (1, "node2", "ended"),
    ]
    held = [json.loads((site.folder / "run" / "attempt_0" / f"node_{rank}.json").read_text()) for rank in (0, 1)]
    assert [each["resources"] for each in held] == [["hpt_trainer"], ["hpt_rollout"]]


def test_the_time_limit_saves_and_the_same_job_goes_on_to_the_same_weights(site: Site) -> None:
    """SLURM's own warning before the limit; the second attempt goes on from what the first one saved.

    SLURM looks at limits twice a minute, so the run has more steps than others here. The undisturbed one is made while
    the job is in the queue again.
    """
    longer = (*SUPERVISED, f"trainer.total_training_steps={LONGER}")
    number = site.submit(*longer, "trainer.run_dir=run")
    until(lambda: f"step 1/{LONGER}" in site.log("run", number))
    site.slurm.ask("scontrol", "update", f"jobid={number}", "TimeLimit=00:01:30")
    until(lambda: site.slurm.facts(number)["Restarts"] == "1")
    site.slurm.ask("scontrol", "update", f"jobid={number}", "TimeLimit=00:20:00")
    site.hpt(*longer, "trainer.run_dir=alone")
    facts = site.slurm.wait(number, 400)
    said = site.log("run", number)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), said
    first, second = (result(site.folder / "run" / f"attempt_{attempt}") for attempt in (0, 1))
    assert (first["again"], first["code"], first["why"]) == (True, 75, "it was asked to stop")
    assert (second["again"], second["code"]) == (False, 0)
    assert 1 <= first["checkpoint"] < LONGER
    assert f"goes on from {site.folder}/run/checkpoints/step_{first['checkpoint']}" in said
    assert weights(site.folder / "run") == weights(site.folder / "alone")


@pytest.mark.parametrize("how", ["one node's task is killed", "the step is cancelled"])
def test_an_attempt_that_is_cut_off_ends_whole_and_the_next_one_comes_to_the_same_weights(
    site: Site, undisturbed: dict, how: str
) -> None:
    """No node goes on alone, and SLURM starts the job again."""
    number = site.submit(*SUPERVISED, "trainer.run_dir=run", "cluster.nodes=2")
    until(lambda: "step 26/60" in site.log("run", number))
    if how == "the step is cancelled":
        site.slurm.ask("scancel", "--signal=KILL", f"{number}.1")
    else:
        lost = json.loads((site.folder / "run" / "attempt_0" / "node_1.json").read_text())
        os.kill(lost["process"], signal.SIGKILL)
    facts = site.slurm.wait(number, 300)
    said = site.log("run", number)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), said
    assert result(site.folder / "run" / "attempt_0")["again"]
    assert weights(site.folder / "run") == undisturbed


def test_a_node_that_is_not_healthy_is_kept_out_of_the_next_attempt(site: Site) -> None:
    """A program of the site that says no on node1."""
    program = site.folder / "look"
    program.write_text('#!/bin/sh\n[ "$SLURMD_NODENAME" = node2 ] || { echo "fan 3 stands still"; exit 9; }\n')
    program.chmod(0o755)
    command = f"\"'{program}'\""  # quoted for the shell's rules, and that for Hydra's: there is a space in it
    number = site.submit("plan", "--folder", "job", f"cluster.health_command={command}")
    facts = site.slurm.wait(number, 120)
    said = site.log("job", number)
    assert (facts["JobState"], facts["BatchHost"], facts["Restarts"]) == ("COMPLETED", "node2", "1"), said
    first = result(site.folder / "job" / "attempt_0")
    assert (first["again"], first["kept_out"]) == (True, ["node1"])
    assert first["nodes"][0]["why"].endswith("says no, with exit code 9: fan 3 stands still")
    assert facts["ExcNodeList"] == "node1"


def test_what_nobody_can_mend_is_not_tried_for_ever(site: Site) -> None:
    """Every node says no: after so many attempts without a checkpoint the job ends."""
    number = site.submit("plan", "--folder", "job", "cluster.health_command=/bin/false", "cluster.fruitless=1")
    facts = site.slurm.wait(number, 120)
    assert facts["JobState"] == "FAILED"
    told = result(site.folder / "job" / "attempt_0")
    assert not told["again"]
    assert told["why"].endswith("1 attempts in a row made no checkpoint")


def test_a_mistake_of_the_users_is_not_tried_again(site: Site) -> None:
    """Exit code 2 is SLURM's too."""
    number = site.submit("report", "nowhere", "--folder", "job")
    facts = site.slurm.wait(number, 120)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "2:0", "0")
    assert "no such run" in site.log("job", number)


def test_a_request_that_slurm_refuses_leaves_nothing(site: Site) -> None:
    """Its own words, in one line."""
    said = site.hpt("submit", "trainer.run_dir=run", *("cluster.nodes=3", "cluster.partition=debug"), code=2)
    assert len(said.splitlines()) == 1
    assert "SLURM refused the job" in said
    assert not list(site.folder.iterdir())
