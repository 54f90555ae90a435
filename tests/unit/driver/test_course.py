"""What surrounds the steps: a monitor that may end the run does, saved, and the run goes on when it is told to."""

import io
import json

import pytest

from hpt_megatron.config.load import load_run
from hpt_megatron.driver.loop.run import HALTED, Course, HaltedError
from hpt_megatron.observe.build import open_journal

TOTAL = 5
REWARDS = {1: 0.5, 2: 0.5, 3: 0.1, 4: 0.1, 5: 0.1}


class Falling:
    """Steps that only say how they went."""

    def __init__(self):
        self.made = []

    def step(self, number, log):
        with log.stage("update"):
            log.add({"reward/mean": REWARDS[number]})
        self.made.append(number)

    def state(self):
        return {"made": self.made}

    def restore(self, state):
        self.made = list(state["made"])


def go(folder, act, shown):
    """Answers the steps that were made in all."""
    given = [f"trainer.monitors.reward={act}", "trainer.monitors.window=1", "trainer.save_freq=0"]
    run, loop = load_run(given), Falling()
    with open_journal(run, folder, TOTAL, shown, {}) as journal:
        Course(run, loop, {}, journal, None).go()
    return loop.made


def test_a_monitor_that_stops_ends_the_run_saved_and_it_goes_on_under_warn(tmp_path):
    shown = io.StringIO()
    with pytest.raises(
        HaltedError, match=r"ended after step 3 of 5, saved, by the monitor reward: .* 0\.500 to 0\.100"
    ):
        go(tmp_path, "stop", shown)
    assert HaltedError.exit_code == HALTED == 3
    assert (tmp_path / "checkpoints" / "step_3" / "manifest.json").is_file()
    with pytest.raises(HaltedError, match="after step 4"):  # it is still so
        go(tmp_path, "stop", shown)
    assert go(tmp_path, "warn", shown) == [1, 2, 3, 4, 5]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["monitor/reward"] for line in lines] == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert "memory/update/host" in lines[0]


def test_a_run_whose_last_step_meets_a_monitor_has_ended_anyway(tmp_path, monkeypatch):
    monkeypatch.setitem(REWARDS, 3, 0.5)
    monkeypatch.setitem(REWARDS, 4, 0.5)
    shown = io.StringIO()
    assert go(tmp_path, "stop", shown) == [1, 2, 3, 4, 5]
    assert "the mean reward fell from 0.500 to 0.100" in shown.getvalue()


class Dying:
    """A model whose second save ends the process that makes it."""

    def __init__(self, folder):
        self.metrics, self.saves = folder / "metrics.jsonl", 0

    def save(self, folder, extra, last):
        self.saves += 1
        assert json.loads(self.metrics.read_text().splitlines()[-1])["step"] == extra["step"], "its line comes first"
        if self.saves == 2:
            raise KeyboardInterrupt
        folder.mkdir()

    def restore(self, folder):
        return {}


def test_a_step_whose_saving_is_cut_off_is_made_again_and_none_is_without_a_line(tmp_path):
    run, model, loop = load_run(["trainer.save_freq=1"]), Dying(tmp_path), Falling()

    def go_on():
        with open_journal(run, tmp_path, TOTAL, io.StringIO(), {}) as journal:
            Course(run, loop, {"trainer": model}, journal, None).go()

    with pytest.raises(KeyboardInterrupt):
        go_on()
    go_on()
    assert loop.made == [1, 2, 3, 4, 5]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert ["timing_s/save" in line for line in lines] == [False, False, True, True, True], "of the step before"
