"""A sweep as one job array of a real SLURM: four points, two at a time, each a run of its own; one table of them."""

import json

import pytest
from conftest import PROFILE, Site

pytestmark = pytest.mark.slow

POINTS = (
    *("layout=tp1", "trainer.n_gpus_per_node=1", "trainer.total_training_steps=4", "trainer.lr_warmup_steps=0"),
    *("data.hold_out=32", "trainer.test_freq=2", "trainer.sft_warmup_steps=null", "data.make=null"),
    *("data.train_files=[task/train.parquet]", "algorithm.sft_loss_coef=0.5,1.0", "trainer.lr=1e-4,1e-3"),
)


def test_an_array_of_four_points_and_its_table(site: Site) -> None:
    """Bad points are told before anything is queued; the same command again has the same points."""
    site.hpt("data", "make", "count", "task")
    said = site.hpt("submit", "--multirun", *POINTS, "algorithm.switch_gate=0,9", "--out", "sweep", *PROFILE, code=2)
    assert "4 points of 8 cannot run" in said
    assert [path.name for path in site.folder.iterdir()] == ["task"]
    asked = ("submit", "--multirun", *POINTS, "--out", "sweep", "--concurrent", "2", *PROFILE)
    number = site.hpt(*asked).split()[1].rstrip(",")
    assert " waits " in site.hpt("sweep", "status", "sweep")
    for task in range(4):
        facts = site.slurm.wait(f"{number}_{task}", 500)
        said = "".join(path.read_text() for path in (site.folder / "sweep").glob("job-*.log"))
        assert (facts["JobState"], facts["ExitCode"]) == ("COMPLETED", "0:0"), said
    told = json.loads((site.folder / "sweep" / "sweep.json").read_text())
    assert len(told["points"]) == 4
    assert all((site.folder / "sweep" / name / "checkpoints" / "step_4").is_dir() for name in told["points"])
    table = site.hpt("sweep", "report", "sweep")
    assert table.count("| done | 4/4 |") == 4
    for name in ("sweep.md", "sweep.csv", "report.html"):
        assert (site.folder / "sweep" / name).is_file()
    again = site.hpt(*asked, "--dry-run")
    assert "--array=0-3%2" in again
    losses = {
        name: [json.loads(line)["actor/sft_loss"] for line in (site.folder / "sweep" / name / "metrics.jsonl").open()]
        for name in told["points"]
    }
    assert len({tuple(each) for each in losses.values()}) == 4, "each point was trained as it was asked for"
    assert all(each[-1] < each[0] for each in losses.values()), "and learned something"
