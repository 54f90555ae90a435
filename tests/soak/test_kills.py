"""Twenty seeded kills: whoever dies and whenever, the run ends with the weights that it would have had, bit for bit.

The driver, a process of the trainer, the engine, or all of them get SIGKILL at a moment drawn over the whole run: in
generation, update, publishing or saving. A driver that died is started again by the same command, as a scheduler does;
the driver starts everybody else again. `make soak` runs it, about half an hour on two cores; the suite leaves it out.
Not covered: machines that vanish with their disks.
"""

import contextlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.soak]
KILLS, A_RUN = 20, 5
STEPS, START = 9, 60
GIVEN = [
    *("trainer.sft_warmup_steps=1", f"trainer.total_training_steps={STEPS}", "trainer.total_epochs=null"),
    *("trainer.save_freq=3", "trainer.test_freq=0", "trainer.deterministic=true", "rollout.agent_driver=lockstep"),
    "trainer.async_save=true",
    *("trainer.max_restarts=50", "data.train_batch_size=8", "trainer.ppo_mini_batch_size=8", "rollout.n_verify=4"),
]
WHO = ("driver", "trainer", "engine", "all")
PATIENCE_S = 600
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own: they look for their dead head for a minute before they end, and hold nothing of a run."""


class Run:
    """One folder, and the command that works on it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.said, self.model = folder, folder.with_suffix(".txt"), model
        self.process = self.start()

    def start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "hpt_megatron", "train", f"trainer.run_dir={self.folder}", *GIVEN]
        command.append(f"model.path={self.model}")
        with self.said.open("a") as said:
            return subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)

    def steps(self) -> int:
        path = self.folder / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def below(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def named(self, name: str) -> list[psutil.Process]:
        return [process for process in self.below() if name in title(process)]

    def kill(self, who: str, chance: random.Random) -> bool:
        """Answers whether there was anybody to kill."""
        every = [process for process in self.below() if not title(process).startswith(AGENTS)]
        victims = {
            "driver": [psutil.Process(self.process.pid)],
            "trainer": self.named("TrainerProcess"),
            "engine": self.named("VLLM::"),
            "all": [psutil.Process(self.process.pid), *self.named("TrainerProcess"), *self.named("VLLM::")],
        }[who]
        if who == "trainer" and victims:
            victims = [chance.choice(victims)]
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        if who in ("driver", "all"):
            self.process.wait(60)
            _, left = psutil.wait_procs(every, timeout=60)
            left = [process for process in left if title(process)]  # one that ended and was not asked about has none
            assert not left, f"outlived their driver: {[title(process) for process in left]}"
            self.process = self.start()
        return bool(victims)

    def end(self) -> None:
        assert self.process.wait(PATIENCE_S) == 0, self.said.read_text()[-3000:]


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A model that answers some prompts rightly: else all would imitate, and weights would not depend on rollouts."""
    folder = tmp_path_factory.mktemp("start")
    given = [f"trainer.run_dir={folder / 'run'}", f"trainer.total_training_steps={START}", "trainer.test_freq=0"]
    said([sys.executable, "-m", "hpt_megatron", "sft", *given, "trainer.total_epochs=null"])
    made = folder / "run" / "checkpoints" / f"step_{START}" / "trainer"
    said([sys.executable, "-m", "hpt_megatron", "convert", "export", str(made), str(folder / "hub")])
    return folder / "hub"


def said(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_run_with_kills_ends_with_the_weights_of_a_run_without(tmp_path, start):
    straight = Run(tmp_path / "straight", start)
    straight.end()
    told = [json.loads(line) for line in (straight.folder / "metrics.jsonl").read_text().splitlines()]
    length = sum(line["timing_s/step"] for line in told)
    assert sum(line.get("batch/solved", 0.0) > 0 for line in told) > STEPS // 2, "rollouts decide what is trained"
    done: list[tuple[str, int]] = []
    for seed in range(KILLS // A_RUN):
        chance, run = random.Random(seed), Run(tmp_path / f"killed_{seed}", start)
        while len(done) < (seed + 1) * A_RUN and run.process.poll() is None:
            before = run.steps()
            until = time.monotonic() + PATIENCE_S
            while run.steps() == before and run.process.poll() is None:  # it is at work again
                assert time.monotonic() < until, run.said.read_text()[-3000:]
                time.sleep(0.1)
            time.sleep(chance.uniform(0, length / STEPS))
            who = chance.choice(WHO)
            if run.process.poll() is None and run.kill(who, chance):
                done.append((who, run.steps()))
        run.end()
        ends = [str(each.folder / "checkpoints" / f"step_{STEPS}" / "trainer") for each in (straight, run)]
        command = [sys.executable, "-m", "hpt_megatron", "convert", "verify", *ends]
        compared = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert compared.returncode == 0, f"{done}: {compared.stdout}{compared.stderr}"
        steps = [json.loads(line)["step"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, STEPS + 1))
    (tmp_path / "kills.json").write_text(json.dumps(done))
    assert len(done) > KILLS // 2, "runs ended before enough of them were killed"
