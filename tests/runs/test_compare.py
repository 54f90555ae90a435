"""`hpt compare` with real runs: one start, two methods from it, a table of both; and again, with nothing left to do.

The runs are supervised and validated on held-out demonstrations, so no engine is started.
"""

import json
import re
import subprocess
import sys
import time

import pytest
import yaml

pytestmark = pytest.mark.slow
ASKED = {
    "base": [
        *("experiment=tiny-sft", "layout=tp1", "trainer.n_gpus_per_node=1", "data.make=count", "data.hold_out=16"),
        *("trainer.total_epochs=null", "trainer.total_training_steps=6", "trainer.test_freq=3", "data.val_files=[]"),
        *("trainer.lr_warmup_steps=0", "trainer.best_metric=null"),
    ],
    "start": ["trainer.total_training_steps=4", "trainer.test_freq=0"],
    "seeds": [5],
    "metrics": ["val/demo_loss"],
    "methods": {"slow": ["trainer.lr=1e-6"], "fast": ["trainer.lr=2e-3"]},
}


def command(folder, *more):
    own = ["compare", str(folder / "mine.yaml"), "--out", str(folder / "out"), "--jobs", "2", *more]
    return [sys.executable, "-m", "hpt_megatron", *own]


def compared(folder, *more):
    return subprocess.run(command(folder, *more), capture_output=True, text=True, timeout=400, check=False)


def test_methods_begin_with_what_the_start_learned_and_what_is_done_is_not_done_again(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(ASKED))
    done = compared(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "out"
    told = {run["method"]: run["curve"] for run in json.loads((out / "comparison.json").read_text())["runs"]}
    assert {name: [step for step, _ in curve] for name, curve in told.items()} == {"slow": [3, 6], "fast": [3, 6]}
    assert told["fast"][-1][1] < told["slow"][-1][1] - 0.2
    lines = (out / "start" / "seed_5" / "metrics.jsonl").read_text().splitlines()
    started = [json.loads(line)["actor/loss"] for line in lines]
    first = [json.loads((out / name / "seed_5" / "metrics.jsonl").read_text().splitlines()[0]) for name in told]
    assert first[0]["actor/loss"] == pytest.approx(first[1]["actor/loss"], rel=1e-6), (
        "the same prompts, the same weights"
    )
    assert first[0]["actor/loss"] < started[0] - 0.2, "not the weights that the start began with"

    before = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.jsonl")}
    again = compared(tmp_path, "--methods", "slow")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "| fast | 1 |" in again.stdout, "the table is of all that has ended"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("metrics.jsonl")} == before


def test_whoever_is_asked_to_end_asks_the_runs_to_save_and_end(tmp_path):
    longer = {**ASKED, "start": ["trainer.total_training_steps=4000", "trainer.test_freq=0"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(longer))
    run = tmp_path / "out" / "start" / "seed_5"
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command(tmp_path), stdout=said, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + 200
            while not (run / "metrics.jsonl").is_file():
                assert process.poll() is None, (tmp_path / "said").read_text()
                assert time.monotonic() < until, "no step in time"
                time.sleep(0.2)
            process.terminate()
            assert process.wait(100) == 75
        finally:
            process.kill()
            process.wait()
    told = run.with_suffix(".txt").read_text()
    assert re.search(r"stopped by SIGTERM after step \d+ of 4000; the step is saved", told), told[-1000:]
    assert list((run / "checkpoints").glob("step_*/manifest.json"))
