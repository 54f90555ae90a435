"""Which runs a sweep is made of, and what their folders say of it: names that last, a table of whatever is there."""

import json

import pytest
import yaml

from hpt_megatron.cli.main import main
from hpt_megatron.config.load import load_run
from hpt_megatron.config.sweep import Range, read_sweep
from hpt_megatron.errors import UserError
from hpt_megatron.sweeps.plan import name_of, planned, recorded
from hpt_megatron.sweeps.table import collected, csv_of, text_of, write

GIVEN = ["experiment=tiny-hpt", "algorithm.unify_strategy=switch,soft", "algorithm.sft_loss_coef=0.5,1.0"]


def test_the_shipped_ones_can_be_read_and_every_point_of_the_grids_is_sound(tmp_path):
    grid, tiny, searched = (read_sweep(name) for name in ("hpt-grid", "tiny-grid", "tiny-search"))
    assert len(planned(grid.overrides, tmp_path).points) == 24
    assert len(planned(tiny.overrides, tmp_path).points) == 4
    assert searched.search["trainer.lr"] == Range(1e-4, 3e-3, log=True, whole=False)
    assert searched.search["algorithm.unify_strategy"] == ("switch", "soft")


def test_a_point_has_the_same_name_in_any_order_and_wherever_it_lies(tmp_path):
    first = planned(GIVEN, tmp_path / "a")
    second = planned([*reversed(GIVEN), "trainer.run_dir=elsewhere"], tmp_path / "b")
    assert {point.name for point in first.points} == {point.name for point in second.points}
    assert len({point.name for point in first.points}) == 4
    assert name_of(["a=1"]) != name_of(["a=2"])
    one = first.points[0]
    assert one.run.trainer.run_dir == str(tmp_path / "a" / one.name)
    assert load_run([*one.given, f"trainer.run_dir={one.folder}"]) == one.run


def test_a_sweep_with_more_values_keeps_what_it_had(tmp_path):
    planned(GIVEN[:2], tmp_path).write()
    before = recorded(tmp_path).points
    planned(["experiment=tiny-hpt", "algorithm.unify_strategy=soft,no"], tmp_path).write()
    after = recorded(tmp_path).points
    assert len(before) == 2
    assert len(after) == 3
    assert before.items() <= after.items()


def test_bad_points_are_told_with_their_reasons_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError) as told:
        planned(["algorithm.sft_loss_coef=-1,1", "trainer.lr=0,1e-4"], tmp_path / "sweep")
    said = str(told.value)
    assert "nothing was started: 3 points of 4 cannot run" in said
    assert "point 1: algorithm.sft_loss_coef=-1 trainer.lr=0" in said
    assert said.count("trainer.lr = 0") == 2
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grid": None}, "must have grid, or search and trials"),
        ({"goal": "most"}, "goal must be max or min: most"),
        ({"base": "experiment=tiny-hpt"}, "base must be a list of texts"),
        ({"more": 1}, "and no others"),
        ({"grid": None, "search": {"trainer.lr": {"low": 1, "high": 1}}, "trials": 3}, "search.trainer.lr must be"),
        ({"grid": None, "search": {"trainer.lr": [1]}, "trials": 0}, "trials must be 1 or more"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, change, said):
    told = {"base": [], "grid": ["a=1,2"], "metric": "val/mean_score", "goal": "max", **change}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in told.items() if value is not None}))
    with pytest.raises(UserError, match=said):
        read_sweep(str(path))


def made(folder, steps, of, value=None):
    """A run's folder as far as a table reads it."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    lines = [json.dumps({"step": step, "of": of, "reward/mean": 0.1}) for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if value is not None:
        told = {"step": steps, "val/mean_score": value, "val/solved": 0.25}
        (folder / "validation.jsonl").write_text(json.dumps(told) + "\n")


def test_the_table_is_of_what_is_there_also_of_a_sweep_under_way(tmp_path):
    plan = planned(GIVEN, tmp_path)
    plan.write()
    first, second, third, fourth = plan.points
    made(first.folder, 4, 4, 0.5)
    made(second.folder, 4, 4, 0.75)
    made(third.folder, 2, 4)
    attempt = third.folder / "attempt_0"
    attempt.mkdir()
    (attempt / "result.json").write_text(json.dumps({"code": 1, "again": False}))
    rows = collected(tmp_path)
    assert [(row.name, row.state, row.step) for row in rows] == [
        (second.name, "done", 4),
        (first.name, "done", 4),
        (third.name, "failed", 2),
        (fourth.name, "waits", 0),
    ]
    assert rows[0].differs == {"algorithm.unify_strategy": "switch", "algorithm.sft_loss_coef": "1.0"}
    assert f"| {second.name} | switch | 1.0 | done | 4/4 | 0.7500 |" in text_of(rows, recorded(tmp_path))
    assert csv_of(rows).splitlines()[1] == f"{second.name},switch,1.0,done,4,0.75,0.25"
    assert [path.name for path in write(tmp_path)] == ["sweep.md", "sweep.csv", "sweep.png"]


def test_the_least_is_best_where_that_is_the_goal(tmp_path):
    plan = planned(GIVEN[:2], tmp_path, metric="val/mean_score", goal="min")
    plan.write()
    for point, value in zip(plan.points, (0.5, 0.75), strict=True):
        made(point.folder, 4, 4, value)
    assert [row.metrics["val/mean_score"] for row in collected(tmp_path)] == [0.5, 0.75]


def test_a_folder_that_is_no_sweep_is_refused(tmp_path, capsys):
    assert main(["sweep", "status", str(tmp_path)]) == 2
    assert "is no sweep; the --out of `hpt sweep run`" in capsys.readouterr().err


def test_the_script_of_an_array_is_printed_and_nothing_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "submit", "tiny-grid", "cluster.account=vision", "--concurrent", "2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "#SBATCH --array=0-3%2" in said
    assert "#SBATCH --account=vision" in said
    assert main(["submit", "--multirun", "trainer.seed=1,2,3", "--dry-run"]) == 0
    assert "#SBATCH --array=0-2%4" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["train", "--jobs", "2"], "add --multirun"),
        (["train", "--dry-run"], "unrecognized arguments: --dry-run"),
        (["sweep", "run", "tiny-grid", "--dry-run"], "unrecognized arguments: --dry-run"),
        (["sweep", "run", "tiny-grid", "--jobs", "0"], "--jobs: is 0; 1 or more"),
        (["sweep", "submit", "tiny-grid", "--after", "x"], "--after: is no number of a job"),
        (["submit", "--concurrent", "2"], "add --multirun"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(given, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_search_with_an_end_that_cannot_run_starts_nothing(tmp_path, capsys):
    told = {
        **{"base": ["experiment=tiny-hpt"], "trials": 2, "metric": "val/mean_score", "goal": "max"},
        "search": {"algorithm.sft_loss_coef": {"low": -1.0, "high": 1.0}, "rollout.n_verify": [4, 8]},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(told))
    assert main(["sweep", "run", str(path), "--out", str(tmp_path / "found")]) == 2
    assert "1 point of 2 cannot run" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_an_array_waits_for_another_job_where_it_is_told_to(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["submit", "convert", "import", "a", "b", "--after", "41", "--dry-run"]) == 0
    assert "#SBATCH --dependency=afterany:41" in capsys.readouterr().out
    assert main(["submit", "-m", "trainer.seed=1,2", "--after", "41", "--dry-run"]) == 0
    assert "#SBATCH --dependency=afterany:41" in capsys.readouterr().out
