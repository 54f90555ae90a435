"""`hpt config`, as a person runs it: processes, exit codes, lines."""

import json
import subprocess
import sys

import pytest
import yaml

PLANTED = {
    "layout.pt=2": ("layout.pt = 2: no such key", "layout.tp"),
    "model=qwen2.5-vl-8b": ("model = qwen2.5-vl-8b: no such choice", "qwen2.5-vl-3b"),
    "layout.tp=3": ("layout.tp = 3: does not divide the 28 attention heads", "1, 2, 4"),
    "layout.pp=29": ("layout.pp = 29: 28 layers leave a stage of pp 29 without any", "at most 28"),
    "data.train_batch_size=100": ("data.train_batch_size = 100: does not divide into mini-batches of 64", "64 or 128"),
    "trainer.switch_gate=12": ("algorithm.switch_gate = 12: counts successes among 8 rollouts", "-1 to 7"),
    "rollout.max_model_len=1000": ("rollout.max_model_len = 1000: max_prompt_length 1024 +", "at least 9216"),
    "rollout.verify_every=-1": ("rollout.verify_every = -1: is a number of publishes", "0 (never)"),
    "trainer.lr=fast": ('trainer.lr = "fast": is text', "a number"),
    "layout.vpp=2": ("layout.vpp = 2: 28 layers do not divide by pp 3", "1"),
    "actor_rollout_ref.actor.debug=True": ("actor_rollout_ref.actor.debug = True: no longer means anything", "leave"),
    "rollout.top_p=0": ("rollout.top_p = 0.0: is a share of the probability", "above 0"),
}


def hpt(*arguments, folder=None):
    return subprocess.run(
        [sys.executable, "-m", "hpt_megatron", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
    )


def test_validate_prints_every_planted_violation_at_once():
    """Twelve mistakes of every kind in one command line: each is one line with what would be right, exit code 2."""
    planted = [text for text in PLANTED if text != "layout.vpp=2"]
    done = hpt("config", "validate", "experiment=hpt-7b", *planted)
    assert done.returncode == 2
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    for text in planted:
        said, right = PLANTED[text]
        matching = [line for line in lines if line.strip().startswith(f"error: {said}")]
        assert len(matching) == 1, f"{text}: {done.stdout}"
        assert right in matching[0].partition("right would be: ")[2]
    assert "Traceback" not in done.stdout
    assert "note: trainer.switch_gate is read as algorithm.switch_gate" in done.stdout


def test_validate_reads_the_file_of_a_reward(tmp_path):
    file = tmp_path / "own.json"
    file.write_text('{"components": [{"name": "f1"}]}')
    done = hpt("config", "validate", f"reward.file={file}")
    assert done.returncode == 2
    assert "error: algorithm.success = accuracy: no such component in the reward; right would be: f1" in done.stdout


def test_validate_says_that_a_sound_run_is_sound():
    done = hpt("config", "validate", "experiment=hpt-72b")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "valid: 0 errors, 0 warnings; 73.411 billion parameters, tp 8 x pp 4 x cp 1 x dp 2 on 64 devices" in done.stdout
    )


def test_validate_for_machines_says_the_same():
    done = hpt(
        "config", "validate", "--json", "layout.tp=3", "trainer.unify_strategy=no", "--multirun", "rollout.n=4,8"
    )
    report = json.loads(done.stdout)
    assert done.returncode == 2
    assert report["ok"] is False
    assert [point["overrides"][0] for point in report["points"]] == ["layout.tp=3"] * 2
    assert [point["overrides"][-1] for point in report["points"]] == ["rollout.n=4", "rollout.n=8"]
    assert report["points"][0]["renamed"] == {"trainer.unify_strategy": "algorithm.unify_strategy"}
    assert {"path", "value", "why", "right", "severity"} == set(report["points"][0]["problems"][0])


def test_validate_checks_every_point_of_a_sweep():
    done = hpt("config", "validate", "-m", "experiment=hpt-7b", "layout.tp=1,2,3,4")
    assert done.returncode == 2
    verdicts = [line.split(":")[0].strip() for line in done.stdout.splitlines() if "valid:" in line]
    assert verdicts == ["valid", "valid", "invalid", "valid"]


def test_show_prints_the_run_and_options_may_stand_anywhere():
    one = hpt("config", "show", "experiment=hpt-7b", "--json", "layout.tp=2", "trainer.unify_strategy=soft")
    two = hpt("config", "show", "trainer.unify_strategy=soft", "layout.tp=2", "experiment=hpt-7b")
    assert (one.returncode, two.returncode) == (0, 0)
    assert json.loads(one.stdout) == yaml.safe_load(two.stdout)
    assert json.loads(one.stdout)["algorithm"]["unify_strategy"] == "soft"
    assert "note: trainer.unify_strategy is read as algorithm.unify_strategy" in one.stderr


def test_diff_names_the_keys_that_differ_and_nothing_else():
    done = hpt("config", "diff", "experiment=hpt-7b", "--", "experiment=hpt-7b", "trainer.lr=1e-6", "layout.tp=2")
    assert done.returncode == 0
    body = [line.split() for line in done.stdout.splitlines()[1:]]
    assert body == [["layout.tp", "4", "->", "2"], ["trainer.lr", "5e-06", "->", "1e-06"]]
    assert "no difference" in hpt("config", "diff", "experiment=tiny-hpt", "--").stdout


def test_list_names_every_choice_from_any_folder(tmp_path):
    done = hpt("config", "list", folder=tmp_path)
    assert done.returncode == 0
    for word in ("qwen2.5-vl-72b", "llama-3.1-8b", "seed_debug", "tp8-pp4"):
        assert word in done.stdout
    only = hpt("config", "list", "layout")
    assert "tp8-pp4" in only.stdout
    assert "seed_debug" not in only.stdout


def test_list_shows_a_folder_of_ones_own_beside_what_ships(tmp_path):
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout" / "wide.yaml").write_text("# Two nodes at once.\ntp: 2\n")
    done = hpt("config", "list", "layout", "--config-dir", str(tmp_path))
    assert "wide             Two nodes at once." in done.stdout
    assert "tp8-pp4" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["confg"], "no such verb: confg; did you mean `hpt config`?"),
        (["config", "lst"], "no such action: lst"),
        (["config", "list", "modle"], "no such group: modle"),
        (["config", "show", "--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
        (["config", "diff", "layout.tp=x", "--"], 'layout.tp = "x": is text'),
        (["config", "show", "--jsn"], "hpt config show: unrecognized arguments: --jsn; see `hpt config show --help`"),
        (["config", "validate", "--config-dir"], "expected one argument; see `hpt config validate --help`"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(arguments, said):
    done = hpt(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1 or "diff" in arguments


def test_debug_adds_the_traceback():
    assert "Traceback" in hpt("config", "lst", "--debug").stderr
