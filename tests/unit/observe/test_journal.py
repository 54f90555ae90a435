"""What a run says about itself: lines that survive a torn file, stages that add up, a folder of one run."""

import io
import json
import math

import pytest

from hpt_megatron.config.load import load_run
from hpt_megatron.errors import UserError
from hpt_megatron.observe.journal import Journal
from hpt_megatron.observe.record import check_marks, check_record, write_record
from hpt_megatron.observe.step import Step
from hpt_megatron.protocol.step_report import StepReport


def step(number, **numbers):
    log = Step(number)
    with log.stage("generate"):
        pass
    with log.stage("generate"):
        pass
    log.add(numbers)
    log.updates([StepReport({"rl": 1.0}, {"a": 2.0}, 3.0, 0.1), StepReport({"rl": 3.0}, {"a": 4.0}, 5.0, 0.2, "why")])
    log.decisions([{"step": number, "uid": "p"}])
    log.end()
    return log


def test_a_step_is_written_and_told(tmp_path):
    shown = io.StringIO()
    journal = Journal(tmp_path, 9, shown)
    journal.step(step(1, **{"reward/mean": 0.5, "odd": math.nan}))
    told = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert told["step"] == 1
    assert told["odd"] is None
    assert told["actor/loss"] == 2.0
    assert told["loss/rl"] == 2.0
    assert told["actor/lr"] == 0.2
    assert told["actor/skipped"] == 1.0
    assert told["timing_s/step"] >= told["timing_s/generate"] > 0
    assert "step 1/9" in shown.getvalue()
    assert "reward 0.500" in shown.getvalue()
    assert "update skipped: why" in shown.getvalue()


def test_what_lies_behind_the_step_that_a_run_goes_on_from_is_undone(tmp_path):
    journal = Journal(tmp_path, 9, io.StringIO())
    for number in (1, 2, 3):
        journal.step(step(number))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "torn')
    (tmp_path / "rollouts").mkdir()
    for number in (2, 3, 10):
        (tmp_path / "rollouts" / f"train_{number}.jsonl").touch()
    journal.begin(2)
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == ["train_2.jsonl"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]
    assert len((tmp_path / "decisions.jsonl").read_text().splitlines()) == 2


def test_a_tokenizer_or_a_processor_that_changed_under_a_run_is_refused(tmp_path):
    marks = {"pictures": "a", "chat": "b", "forbidden": "c"}
    check_marks(marks, tmp_path)
    check_marks(marks, tmp_path)
    with pytest.raises(UserError, match="has changed since the run began: chat"):
        check_marks({**marks, "chat": "d"}, tmp_path)
    assert json.loads((tmp_path / "marks.json").read_text()) == marks


def test_a_folder_belongs_to_one_run(tmp_path):
    write_record(load_run([]), tmp_path)
    check_record(load_run(["trainer.total_training_steps=7", "layout=tp1"]), tmp_path)
    with pytest.raises(UserError, match=r"another run: algorithm.switch_gate was 0 and is 3"):
        check_record(load_run(["algorithm.switch_gate=3"]), tmp_path)
    (tmp_path / "run.json").write_text("[")
    with pytest.raises(UserError, match="cannot be read"):
        check_record(load_run([]), tmp_path)
