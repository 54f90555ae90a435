"""Files of pipelines: what each stage is given, rounds, and everything that is wrong with a file in one line."""

import json
from pathlib import Path

import pytest
import yaml

from hpt_megatron.cli import main
from hpt_megatron.config.files import configs_folder
from hpt_megatron.config.load import load, load_run
from hpt_megatron.config.pipeline import read_pipeline
from hpt_megatron.errors import UserError

SHIPPED = sorted(path.stem for path in (configs_folder() / "pipeline").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_pipeline_is_sound(name, tmp_path):
    pipeline = read_pipeline(name)
    turns = pipeline.turns(tmp_path)
    pipeline.check(turns)
    assert [turn.folder.parent for turn in turns] == [tmp_path] * len(turns)


def test_a_stage_is_given_base_then_its_own_then_the_command_line_and_what_earlier_ones_made(tmp_path):
    ppo = read_pipeline("tiny-rlhf").turns(tmp_path, ["trainer.seed=7"])[2]
    assert ppo.given[0] == "data.make=pref"
    assert ppo.given[-2:] == ("trainer.seed=7", f"trainer.run_dir={tmp_path / 'ppo'}")
    assert ppo.given.index("experiment=tiny-ppo") < ppo.given.index("trainer.seed=7")
    assert ppo.handed == [f"model.path={tmp_path / 'sft' / 'hub'}", f"reward.learned.runs=[{tmp_path / 'reward'}]"]


def test_the_shipped_chain_for_a_node_has_the_usual_numbers():
    """Those of the table in docs/ppo.md."""
    given = [list(turn.given) for turn in read_pipeline("rlhf").turns(Path("x"))]
    sft, reward, ppo = (load(each).run for each in given)
    assert all(1e-6 <= run.trainer.lr <= 5e-5 for run in (sft, reward))
    assert [run.trainer.lr_warmup_share for run in (sft, reward)] == [0.04, 0.04]
    assert sft.supervised
    assert 1e-6 <= ppo.trainer.lr <= 5e-6
    assert 1 <= ppo.trainer.critic_lr / ppo.trainer.lr <= 5
    control = ppo.algorithm.kl_ctrl
    assert (control.type, control.target_kl, control.low, control.high) == ("adaptive", 6.0, 0.01, 0.5)
    assert 0.05 <= control.kl_coef <= 0.2
    assert 0 <= ppo.algorithm.entropy_coeff <= 0.01
    assert (ppo.algorithm.clip_ratio_low, ppo.algorithm.gamma, ppo.algorithm.lam) == (0.2, 1.0, 0.95)
    assert (ppo.trainer.ppo_epochs, ppo.data.train_batch_size, ppo.trainer.ppo_mini_batch_size) == (2, 128, 64)


def test_each_round_begins_with_the_last_weights_of_the_one_before(tmp_path):
    turns = read_pipeline("tiny-iterative-dpo").turns(tmp_path)
    assert [turn.folder.name for turn in turns] == ["sft", "dpo_1", "dpo_2"]
    assert turns[1].weights_of == tmp_path / "sft"
    assert turns[2].weights_of == tmp_path / "dpo_1"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"stages": {}}, "must have the keys base and stages"),
        ({"base": [], "stages": {}}, "stages must name at least one"),
        ({"base": [1], "stages": {"a": {"set": []}}}, "base must be a list of texts"),
        ({"base": [], "stages": {"a b": {"set": []}}}, "a stage must have a name of letters"),
        ({"base": [], "stages": {"a": {"sets": []}}}, "stages.a must have the key set"),
        ({"base": [], "stages": {"a": {"set": [], "from": "b"}}}, "stages.a takes from b, which is no stage before it"),
        ({"base": [], "stages": {"a": {"set": [], "judged_by": ["a"]}}}, "takes from a, which is no stage before it"),
        ({"base": [], "stages": {"a": {"set": [], "rounds": 0}}}, "stages.a.rounds must be a whole number from 1"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(told, said, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        read_pipeline(str(path))


def test_a_dry_run_checks_all_stages_and_shows_their_commands(tmp_path, capsys):
    assert main.main(["pipeline", "tiny-rlhf", "--out", str(tmp_path / "x"), "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said] == [["hpt", "train"]] * 3
    assert not (tmp_path / "x").exists()
    assert main.main(["pipeline", "tiny-rlhf", "trainer.lr=-1", "--dry-run"]) == 2
    assert "3 errors in the stages of tiny-rlhf" in capsys.readouterr().err


def test_a_stage_that_was_done_with_other_words_is_refused(tmp_path, capsys):
    """Nothing is started, and what is there stays."""
    told = {"base": ["data.make=pref"], "stages": {"sft": {"set": ["experiment=tiny-sft", "trainer.lr=1e-3"]}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    done = tmp_path / "out" / "sft" / "done.json"
    done.parent.mkdir(parents=True)
    given = ["data.make=pref", "experiment=tiny-sft", "trainer.lr=2e-3", f"trainer.run_dir={done.parent}"]
    done.write_text(json.dumps({"given": given, "seconds": 1.0}), encoding="utf-8")
    assert main.main(["pipeline", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was done with other words: trainer.lr=1e-3, trainer.lr=2e-3" in line
    assert "the same words, or another --out" in line
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["done.json", "sft"]


def test_supervised_fine_tuning_of_a_real_size_has_the_usual_numbers():
    """Those of the table in docs/sft.md; rows held out tell the loss of evaluation."""
    run = load_run(["experiment=sft-7b"])
    trainer = run.trainer
    assert run.supervised
    assert 1 <= trainer.total_epochs <= 3
    assert 1e-6 <= trainer.lr <= 5e-5
    assert (trainer.lr_schedule, trainer.lr_warmup_share) == ("cosine", 0.04)
    assert run.data.hold_out > 0
    assert run.algorithm.entropy_coeff == 0.0


REWARD = {"from": "sft", "set": ["experiment=tiny-reward-model"]}
SFT = {"set": ["experiment=tiny-sft"]}


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"a": {**SFT, "rounds": 2}, "a_1": SFT}, "two runs would be in one folder: a_1"),
        ({"sft": SFT, "ppo": {"set": ["experiment=tiny-ppo"], "judged_by": ["sft"]}}, "judged_by sft, which trains no"),
        ({"sft": SFT, "rm": REWARD, "ppo": {"set": ["experiment=tiny-ppo"], "from": "rm"}}, "from rm, a reward model"),
    ],
)
def test_stages_that_cannot_follow_one_another_are_told_before_the_first_one_starts(stages, said, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"base": [], "stages": stages}, sort_keys=False), encoding="utf-8")
    assert main.main(["pipeline", str(path), "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["a file", "done.json"])
def test_a_folder_that_cannot_be_used_is_one_line(broken, tmp_path, capsys):
    out = tmp_path / "out"
    if broken == "a file":
        out.write_text("mine")
    else:
        (out / "sft").mkdir(parents=True)
        (out / "sft" / "done.json").write_text("{")
    assert main.main(["pipeline", "tiny-rlhf", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "another --out" in line
    assert str(out) in line
