"""A search of real runs: Optuna asks, runs answer, and what ended is not asked for again."""

import json
import subprocess
import sys

import pytest
import yaml

pytestmark = pytest.mark.slow

SEARCH = {
    "base": [
        *("layout=tp1", "trainer.n_gpus_per_node=1", "trainer.total_training_steps=3", "trainer.lr_warmup_steps=0"),
        *(
            "trainer.sft_warmup_steps=null",
            "data.hold_out=32",
            "data.make=null",
            "data.train_files=[task/train.parquet]",
            "trainer.test_freq=3",
        ),
    ],
    "search": {"trainer.lr": {"low": 1e-5, "high": 1e-2, "log": True}, "algorithm.sft_loss_coef": [0.5, 1.0]},
    "trials": 2,
    "metric": "val/demo_loss",
    "goal": "min",
}


def test_a_search_asks_runs_and_what_ended_is_kept(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SEARCH))
    subprocess.run([sys.executable, "-m", "hpt_megatron", "data", "make", "count", "task"], cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "hpt_megatron", "sweep", "run", "mine.yaml", "--out", "found", "--jobs", "2"]
    said = [subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False) for _ in range(2)]
    assert [each.returncode for each in said] == [0, 0], said[0].stdout + said[0].stderr
    told = json.loads((tmp_path / "found" / "sweep.json").read_text())
    assert len(told["points"]) == 2
    values = {}
    for name, given in told["points"].items():
        asked = dict(text.split("=", 1) for text in given)
        assert 1e-5 <= float(asked["trainer.lr"]) <= 1e-2
        run = json.loads((tmp_path / "found" / name / "run.json").read_text())
        assert run["trainer"]["lr"] == float(asked["trainer.lr"])
        last = (tmp_path / "found" / name / "validation.jsonl").read_text().splitlines()[-1]
        values[name] = json.loads(last)["val/demo_loss"]
    least = min(values.values())
    assert f"best: val/demo_loss {least:.4f}" in said[0].stdout
    assert f"best: val/demo_loss {least:.4f}" in said[1].stdout
    assert "exit code" not in said[1].stdout, "nothing was run the second time"
    rows = (tmp_path / "found" / "sweep.md").read_text().splitlines()[2:]
    assert rows[0].endswith(f"| done | 3/3 | {least:.4f} |"), "the least loss is best"
