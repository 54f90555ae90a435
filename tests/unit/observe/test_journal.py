"""What a run says about itself: lines that survive a torn file, stages that add up, a folder of one run."""

import io
import json
import logging
import math
import re

import pytest

from hpt_megatron.config.load import load_run
from hpt_megatron.errors import UserError
from hpt_megatron.observe.build import open_journal
from hpt_megatron.observe.journal import Journal, Watchers
from hpt_megatron.observe.monitors import Monitors
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
    log.decisions([{"step": number, "uid": "p", "n": 4, "successes": 1, "decision": "explore", "mean_reward": 0.25}])
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
    journal.begin(2)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]
    assert len((tmp_path / "decisions.jsonl").read_text().splitlines()) == 2


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_run_that_goes_on_has_no_step_twice_in_any_of_its_files(tmp_path):
    """Rollouts, generation logs and samples of memory too; what is not a step's file stays."""
    run = load_run(["trainer.profile_memory=true"])
    kept = ["rollouts/train_2.jsonl", "rollouts/validate_2.jsonl", "rollouts/notes_9.jsonl", "rollouts/train_x.jsonl"]
    gone = ["rollouts/train_3.jsonl", "rollouts/validate_30.jsonl", "generation_logs/generation_log_step_3.json"]
    for name in [*kept, *gone]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    for done in (0, 2):
        with open_journal(run, tmp_path, 9, io.StringIO(), {}) as journal:
            if done == 0:
                journal.history.begin(0, ())
            else:
                journal.begin(done)
            for number in range(done + 1, 5):
                log = journal.open_step(number)
                with log.stage("update"):
                    pass
                made = step(number)
                log.records = made.records
                log.end()
                journal.step(log)
                journal.validation(number, {"val/avg@1/all": 0.5})
    for name in ("metrics.jsonl", "decisions.jsonl", "validation.jsonl", "history/p.jsonl"):
        assert steps_of(tmp_path / name) == [1, 2, 3, 4], name
    sampled = [number for number in steps_of(tmp_path / "memory.jsonl") if number]  # 0: while a run starts
    assert sampled == sorted(sampled)
    assert all((tmp_path / name).exists() for name in kept)
    assert not any((tmp_path / name).exists() for name in gone)


def test_a_monitor_that_is_met_is_told_and_one_that_stops_says_so(tmp_path):
    shown = io.StringIO()
    run = load_run(["trainer.monitors.window=1", "trainer.monitors.reward=stop"])
    journal = Journal(tmp_path, 9, shown, Watchers(monitors=Monitors(run)))
    journal.begin(0)
    for number, reward in ((1, 0.5), (2, 0.5), (3, 0.1)):
        assert journal.halt == ""
        journal.step(step(number, **{"reward/mean": reward}))
    assert journal.halt == "reward: the mean reward fell from 0.500 to 0.100"
    assert shown.getvalue().count("the mean reward fell") == 1
    told = [json.loads(line)["monitor/reward"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert told == [0.0, 0.0, 1.0]
    again = Journal(tmp_path, 9, shown, Watchers(monitors=Monitors(run)))
    again.begin(2)
    again.step(step(3, **{"reward/mean": 0.1}))
    assert again.halt == journal.halt, "a run that goes on knows what was"


def full_disk(run, folder):
    """A run that ends in an error after three steps and a warning of the package."""
    with open_journal(run, folder, 9, io.StringIO(), {}) as journal:
        journal.begin(0)
        for number, reward in ((1, 0.5), (2, 0.5), (3, 0.1)):
            journal.step(step(number, **{"reward/mean": reward}))
        assert "step 3/9" in (folder / "train.log").read_text(), "it can be followed"
        logging.getLogger("hpt_megatron.driver.loop.checkpoints").warning("checkpoint %s is left out", "step_2")
        raise UserError("is full\n  at last", where="the disk")


def test_the_log_of_a_run_has_what_was_told_and_what_went_wrong_with_literal_levels(tmp_path, capsys, monkeypatch):
    """A line each, with the attempts one after the other; warnings of the package are still shown as well."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process of its own
    run = load_run(["trainer.monitors.window=1"])
    with pytest.raises(UserError, match="is full"):
        full_disk(run, tmp_path)
    with open_journal(run, tmp_path, 9, io.StringIO(), {}) as journal:
        journal.tell("goes on")
    form = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (INFO|WARNING|ERROR) (.+)")
    levels = [form.fullmatch(line).groups() for line in (tmp_path / "train.log").read_text().splitlines()]
    assert [(level, text) for level, text in levels if not text.startswith(("memory", "step", "update"))] == [
        ("WARNING", "reward: the mean reward fell from 0.500 to 0.100"),
        ("WARNING", "checkpoint step_2 is left out"),
        ("ERROR", '"UserError: the disk: is full\\n  at last"'),
        ("INFO", "goes on"),
    ]
    assert capsys.readouterr().err == "checkpoint step_2 is left out\n"
    logging.getLogger("hpt_megatron.driver.loop.checkpoints").warning("later")
    assert "later" not in (tmp_path / "train.log").read_text()


def test_held_out_demonstrations_that_nobody_measures_are_missed_once(tmp_path):
    shown = io.StringIO()
    journal = Journal(tmp_path, 9, shown, Watchers(monitors=Monitors(load_run([]))))
    for number in (1, 2):
        journal.validation(number, {"val/avg@1/all": 0.5})
    assert shown.getvalue().count("no held-out demonstrations are measured") == 1
    other = io.StringIO()
    journal = Journal(tmp_path, 9, other, Watchers(monitors=Monitors(load_run([]))))
    journal.validation(1, {"val/demo_loss/all": 0.5})
    assert "no held-out" not in other.getvalue()


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
    check_record(load_run(["trainer.monitors.kl=stop", "trainer.logger=[]", "trainer.project_name=mine"]), tmp_path)
    with pytest.raises(UserError, match=r"another run: algorithm.switch_gate was 0 and is 3"):
        check_record(load_run(["algorithm.switch_gate=3"]), tmp_path)
    (tmp_path / "run.json").write_text("[")
    with pytest.raises(UserError, match="cannot be read"):
        check_record(load_run([]), tmp_path)
