"""`hpt train` on the tiny model: real Megatron at tp 2, real vLLM, real Ray, from data to a checkpoint and on from it.

Not covered: whether it learns, which takes more steps than a test should; GPUs; more hosts than this one.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
STEPS, WARM_UP = 5, 2
GIVEN = [
    f"trainer.sft_warmup_steps={WARM_UP}",
    "trainer.save_freq=3",
    "trainer.async_save=true",
    "trainer.deterministic=true",
    "rollout.agent_driver=lockstep",
    "data.train_batch_size=8",
    "trainer.ppo_mini_batch_size=8",
    "rollout.n_verify=4",
]


def trained(folder: Path, *more: str) -> str:
    """One run of the command, in a process of its own."""
    command = [sys.executable, "-m", "hpt_megatron", "train", f"trainer.run_dir={folder}", *GIVEN, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """From the first step to the last without a stop."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    out = trained(folder, f"trainer.total_training_steps={STEPS}")
    return folder, out


def test_every_step_says_what_it_did(straight):
    folder, out = straight
    told = lines(folder / "metrics.jsonl")
    assert [line["step"] for line in told] == [1, 2, 3, 4, 5]
    assert out.count("\nstep ") == STEPS
    assert "plan for 2 x a process on this host" in out.splitlines()[0], "what it will need comes first"
    assert all(line["actor/skipped"] == 0.0 for line in told)
    assert told[1]["actor/loss"] < told[0]["actor/loss"], "the warm-up imitates"
    assert "timing_s/generate" not in told[0]
    for line in told[WARM_UP:]:
        assert line["timing_s/generate"] > 0
        assert line["publish/bytes"] > 0
        assert line["batch/rollouts"] == 32
        assert line["batch/not_valid"] == 0


def test_decisions_are_a_recount_of_the_rollouts(straight):
    folder, _ = straight
    decisions = [line for line in lines(folder / "decisions.jsonl") if line["step"] > WARM_UP]
    assert len(decisions) == 8 * (STEPS - WARM_UP)
    for step in range(WARM_UP + 1, STEPS + 1):
        rollouts = lines(folder / "rollouts" / f"train_{step}.jsonl")
        for line in (line for line in decisions if line["step"] == step):
            own = [rollout for rollout in rollouts if rollout["uid"] == line["uid"]]
            right = sum(rollout["components"]["accuracy"] >= 1.0 for rollout in own)
            assert (line["n"], line["successes"]) == (len(own), right)
            assert line["decision"] == ("imitate" if right == 0 else "explore")


def test_rollouts_are_of_the_weights_that_the_step_before_made(straight):
    folder, _ = straight
    for step in range(WARM_UP + 1, STEPS + 1):
        rollouts = lines(folder / "rollouts" / f"train_{step}.jsonl")
        versions = {version for line in rollouts for version in line["versions"]}
        assert versions == {str(step - 1)}


def test_a_run_that_goes_on_reaches_the_same_weights_bit_for_bit(straight, tmp_path):
    """Also where trainer and engine now take turns on their devices; on this host that is the order, not the memory."""
    folder, _ = straight
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "checkpoints" / f"step_{STEPS}")
    more = ("trainer.placement=colocated", "rollout.replicas=1")
    out = trained(again, f"trainer.total_training_steps={STEPS}", *more)
    assert "goes on from" in out
    assert "step_3" in out
    assert [line["step"] for line in lines(again / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert [len(lines(again / "rollouts" / f"train_{step}.jsonl")) for step in range(WARM_UP + 1, STEPS + 1)] == [
        32
    ] * 3
    ends = [str(each / "checkpoints" / f"step_{STEPS}" / "trainer") for each in (folder, again)]
    command = [sys.executable, "-m", "hpt_megatron", "convert", "verify", *ends]
    compared = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert compared.returncode == 0, compared.stdout + compared.stderr
    same = ["actor/loss", "actor/grad_norm", "reward/mean", "batch/solved"]
    first, second = (lines(each / "metrics.jsonl")[-1] for each in (folder, again))
    assert {name: first[name] for name in same} == {name: second[name] for name in same}


def test_a_folder_of_another_run_is_refused_before_anything_starts(straight):
    folder, _ = straight
    before = sorted(path.name for path in folder.iterdir())
    command = [sys.executable, "-m", "hpt_megatron", "train", f"trainer.run_dir={folder}", "algorithm.switch_gate=3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "belongs to another run" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before
