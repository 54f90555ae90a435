"""The table and the figure of a comparison, of folders as runs leave them."""

import json

import pytest

from hpt_megatron.config.comparison import Comparison, run_folder
from hpt_megatron.errors import UserError
from hpt_megatron.report.comparison import collected, write

ASKED = Comparison("mine", (), (), (1, 2), ("val/mean_score", "val/other"), {"hpt": (), "grpo": (), "sft": ()})


def ended(folder, scores, of=4):
    folder.mkdir(parents=True)
    steps = [{"step": step, "of": of, "timing_s/step": 2.0} for step in range(1, 5)]
    tested = [{"step": 2 * number, "val/mean_score": score} for number, score in enumerate(scores, 1)]
    for name, lines in (("metrics.jsonl", steps), ("validation.jsonl", tested)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def folder(tmp_path):
    ended(run_folder(tmp_path, "grpo", 1), [0.1, 0.5])
    ended(run_folder(tmp_path, "grpo", 2), [0.3, 0.4])
    ended(run_folder(tmp_path, "hpt", 1), [0.2, 0.9])
    ended(run_folder(tmp_path, "hpt", 2), [0.2, 0.8], of=9)
    return tmp_path


def test_only_runs_that_ended_count_and_the_others_are_named(folder):
    done, missing = collected(ASKED, folder)
    assert [(one.method, one.seed) for one in done] == [("hpt", 1), ("grpo", 1), ("grpo", 2)]
    assert missing == ["hpt/seed_2", "sft/seed_1", "sft/seed_2"]
    assert done[1].curve == [(2, 0.1), (4, 0.5)]
    assert done[1].seconds == 8.0


def test_the_table_has_the_best_first_with_its_spread_over_seeds(folder):
    paths = write(ASKED, folder)
    assert [path.name for path in paths] == ["comparison.json", "comparison.md", "comparison.png"]
    lines = paths[1].read_text().splitlines()
    assert lines[2:4] == ["| hpt | 1 | 0.900 | - | 8 |", "| grpo | 2 | 0.450 +- 0.071 | - | 8 |"]
    assert lines[-1] == "Not ended: hpt/seed_2, sft/seed_1, sft/seed_2."
    told = json.loads(paths[0].read_text())
    assert {(run["method"], run["seed"]): run["metrics"] for run in told["runs"]}["grpo", 2] == {"val/mean_score": 0.4}
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_nothing_that_ended_is_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no run has ended yet"):
        write(ASKED, tmp_path)
