"""Checkpoints of a run: whole or not there, sound or left out, as many as are wanted."""

import json

import pytest

from hpt_megatron.driver.loop.checkpoints import MANIFEST, Checkpoints, read
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast


def saved(folder, steps, keep_last=3, worth=()):
    checkpoints = Checkpoints(folder, keep_last)
    for step in steps:
        path = checkpoints.begin(step)
        (path / "trainer").mkdir()
        (path / "trainer" / "weights").write_text(f"of {step}")
        checkpoints.seal(path, step, {"at": step}, dict(worth).get(step))
    return checkpoints


def test_the_newest_are_kept_with_their_state(tmp_path):
    checkpoints = saved(tmp_path, [1, 2, 9, 10], keep_last=2)
    assert checkpoints.steps() == [10, 9]
    assert checkpoints.newest() == tmp_path / "step_10"
    assert read(tmp_path / "step_10")["state"] == {"at": 10}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_9"]


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda path: (path / "trainer/weights").write_text("of 9"), "trainer/weights is not what was written"),
        (lambda path: (path / "trainer/weights").unlink(), "trainer/weights is missing"),
        (lambda path: (path / MANIFEST).write_text("{"), "cannot be read"),
        (lambda path: (path / MANIFEST).write_text("[]"), "cannot be read"),
    ],
)
def test_a_harmed_one_is_left_out_with_a_warning_and_the_one_before_is_used(tmp_path, caplog, harm, told):
    checkpoints = saved(tmp_path, [3, 6])
    harm(tmp_path / "step_6")
    assert checkpoints.newest() == tmp_path / "step_3"
    assert told in caplog.text
    with pytest.raises(UserError, match=told):
        read(tmp_path / "step_6")


def test_one_whose_writing_was_cut_off_is_no_checkpoint_and_is_written_anew(tmp_path):
    checkpoints = saved(tmp_path, [3])
    (checkpoints.begin(6) / "half").write_text("of something")
    assert checkpoints.newest() == tmp_path / "step_3"
    saved(tmp_path, [6])
    assert checkpoints.steps() == [6, 3]
    assert not list(tmp_path.glob("*.partial"))


def test_the_same_step_saved_again_replaces_the_first(tmp_path):
    saved(tmp_path, [3])
    again = saved(tmp_path, [3])
    assert again.steps() == [3]
    assert json.loads((tmp_path / "step_3" / MANIFEST).read_text())["step"] == 3


def test_the_best_is_kept_beside_the_newest_until_a_better_one_comes(tmp_path):
    checkpoints = saved(tmp_path, [1, 2, 3, 4], keep_last=1, worth={1: 0.25, 2: 0.5, 3: float("nan")})
    assert checkpoints.best() == 2
    assert checkpoints.steps() == [4, 2]
    saved(tmp_path, [5, 6], keep_last=1, worth={5: 0.75})
    assert checkpoints.steps() == [6, 5]
    assert read(tmp_path / "step_5")["worth"] == 0.75
