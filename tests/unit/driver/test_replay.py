"""A step recorded by the loop and worked out again: it agrees, and one number that was changed is found and named.

The loop is the real one with its algorithm, balance, credit and weights; who samples, shows and learns is played, so no
loss is worked out here (tests/dist/test_replay_loss.py does that). Not covered: critics.
"""

import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_balance import demonstrations, prompts, rollouts

from hpt_megatron.cli.main import main
from hpt_megatron.config.load import load_run
from hpt_megatron.data.prompts import Prompts
from hpt_megatron.data.samplers import Shuffled
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.replay import again, read
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.driver.loop.roles import Collected, Roles
from hpt_megatron.driver.loop.supply import Supply
from hpt_megatron.observe.record import write_record
from hpt_megatron.observe.step import Step
from hpt_megatron.protocol.step_report import StepReport

SCORES = [[0.0, 0.0, 1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]]
SMALL = ["data.train_batch_size=3", "trainer.ppo_mini_batch_size=1", "rollout.n_verify=2", "trainer.record_freq=1"]


class Model:
    """Says something of every token, and learns nothing."""

    def log_probs(self, batch):
        ids = batch.rows.tokens["ids"].float()
        return torch.where(batch.rows.tokens["trained"], -ids / 16, 0.0)

    def update(self, batch, components):
        return StepReport({part.name: 0.25 for part in components}, {"entropy/rl": 0.1}, grad_norm=1.5)


class Played:
    """Scores by step."""

    def collect(self, asked):
        targets = {place: {"accuracy": 1.0, "score": 1.0, "worth": 0.5} for place in asked.places}
        return Collected(rollouts(SCORES[asked.step % 3][: 2 * len(targets)]), targets)


def recorded(folder, *given, steps=3):
    """A run of three steps, every one of them recorded."""
    run = load_run([*SMALL, *given, f"trainer.run_dir={folder}"])
    write_record(run, folder)
    shown = SimpleNamespace(show=lambda records, places: demonstrations(list(places)))
    engines = SimpleNamespace(at=lambda version: nullcontext(None))
    roles = Roles(Model(), shown, Played(), engines, reference=Model())
    held = Prompts({prompt.index: prompt for prompt in prompts()})
    loop = RlLoop(run, roles, Algorithm(run), Supply(held, Shuffled(list(held.names), 0)))
    for step in range(1, steps + 1):
        loop.step(step, Step(step))
    return folder


@pytest.fixture(scope="module")
def one_step(tmp_path_factory):
    """A run of one step; nobody writes into it."""
    return recorded(tmp_path_factory.mktemp("runs") / "one", steps=1)


@pytest.fixture
def folder(one_step, tmp_path):
    """A copy of it."""
    return shutil.copytree(one_step, tmp_path / "run")


CASES = {
    "switch": [],
    "adaptive": ["algorithm=adaptive"],
    "kl": ["algorithm.kl_ctrl.kl_coef=0.05", "algorithm.kl_ctrl.type=adaptive", "algorithm.kl_ctrl.horizon=50"],
    "refill": ["algorithm.groups.mixed=true", "algorithm.groups.max_rounds=2", "algorithm.unify_strategy=no"],
    "entropy": ["algorithm.entropy_ctrl.target=0.5", "algorithm.entropy_ctrl.step=0.003"],
    "warm-up": ["trainer.sft_warmup_steps=2"],
}


@pytest.mark.parametrize("case", CASES)
def test_every_step_of_a_run_agrees_with_its_record(tmp_path, case):
    """Also those whose strategy, controller or refill remembers the steps before."""
    recorded(tmp_path, *CASES[case])
    for step in (1, 2, 3):
        lines, ready = again(read(tmp_path, step))
        assert [(line.part, line.agrees) for line in lines] == [
            *(("routing", True), ("rows", True), ("credit", True), ("weights", True))
        ], lines
        assert len(ready) == len(read(tmp_path, step).reports) > 0
        assert ready[0].shown_by(0), "images follow their rows"


def test_the_second_step_decides_by_what_the_first_one_left(tmp_path):
    path = recorded(tmp_path, *CASES["adaptive"], steps=2) / "steps/step_2/step.json"
    told = json.loads(path.read_text())
    first = json.loads((tmp_path / "steps/step_1/step.json").read_text())
    assert told["state"] == first["state_after"] != first["state"]
    path.write_text(json.dumps({**told, "state": first["state"]}))
    lines, _ = again(read(tmp_path, 2))
    assert lines[-1].agrees is False


def changed(folder, file, column, at, value):
    """One number of one column of a recorded file."""
    path = folder / "steps" / "step_1" / f"{file}.safetensors"
    with safe_open(str(path), framework="pt") as opened:
        header, columns = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    columns[column][at] = value
    save_file(columns, str(path), header)


CHANGES = {
    "a reward": (
        ("round_1_rollouts", "fields.reward_accuracy", 0, 1.0),
        ("routing", "round 1, prompt 'p1', k: 1 recorded, 2 now"),
    ),
    "a score": (
        ("round_1_rollouts", "fields.score", 1, 0.5),
        ("routing", ", reward: 0.5 recorded, 0.25 now"),
    ),
    "a log-prob": (
        ("before_credit", "tokens.logp", 4, -0.75),
        ("rows", "row 1 (prompt 0, sample 1), token 1, logp: -0.75 recorded, -0.5 now"),
    ),
    "credit": (
        ("credited", "tokens.credit", 1, 9.0),
        ("credit", "row 0 (prompt 0, sample 0), token 1, credit: 9.0 recorded, -0.5 now"),
    ),
    "a weight": (
        ("update_1", "tokens.weight_rl", 1, 0.75),
        ("weights", "update 1, row 0 (prompt 0, sample 0), token 1, weight_rl: 0.75 recorded, 0.25 now"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_changed_number_is_found_and_named_and_what_is_behind_it_is_left_out(folder, capsys, change):
    where, (part, told) = CHANGES[change]
    changed(folder, *where)
    assert main(["replay", str(folder), "--step", "1", "--no-loss"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split()[:2] == [part, "DIFFERS"]
    assert told in last


def test_a_changed_decision_is_found_and_named(folder, capsys):
    path = folder / "steps/step_1/step.json"
    told = json.loads(path.read_text())
    index = told["rounds"][0]["prompts"][1]["index"]
    told["rounds"][0]["decisions"][1]["arm"] = "sideways"
    path.write_text(json.dumps(told))
    assert main(["replay", str(folder), "--step", "1", "--no-loss", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["agrees"] is False
    assert answer["parts"][0]["told"].startswith(f"round 1, prompt {index!r}, arm: 'sideways' recorded, '")


def test_steps_are_recorded_every_so_often_and_the_folder_has_its_name_when_it_is_whole(tmp_path):
    recorded(tmp_path, "trainer.record_freq=2")
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["step_1", "step_3"]
    recorded(tmp_path / "none", "trainer.record_freq=0", steps=1)
    assert not (tmp_path / "none" / "steps").exists()


def test_prompts_whose_target_took_the_place_of_rollouts_are_removed_where_the_key_says_so(tmp_path):
    """The loop tells the sampler; who goes when is the sampler's."""
    run = load_run([*SMALL, "algorithm.remove_sfted_data=true", f"trainer.run_dir={tmp_path}"])
    shown = SimpleNamespace(show=lambda records, places: demonstrations(list(places)))
    engines = SimpleNamespace(at=lambda version: nullcontext(None))
    held = Prompts({prompt.index: prompt for prompt in prompts()})
    sampler = Shuffled(list(held.names), 0)
    order = Shuffled(list(held.names), 0).take(3)
    RlLoop(run, Roles(Model(), shown, Played(), engines), Algorithm(run), Supply(held, sampler)).step(2, Step(2))
    assert sampler.state()["removed"] == [order[2]], "of the scores of step 2 the last prompt has no success"


def test_bad_input_is_refused_in_one_line(folder, tmp_path, capsys):
    for arguments, says in (
        ([tmp_path, "--step", "1"], "is no folder of a run: there is no run.json in it"),
        ([folder, "--step", "7"], "step 7 was not recorded; recorded are 1"),
        ([folder, "--step", "0"], "a whole number from 1 is needed"),
    ):
        assert main(["replay", *map(str, arguments)]) == 2
        said = capsys.readouterr().err
        assert says in said
        assert said.count("\n") == 1
    step = folder / "steps/step_1/step.json"
    told = json.loads(step.read_text())
    for harm, says in (
        ({**told, "version": 9}, "was written in version 9, this is 1"),
        ({name: told[name] for name in told if name != "state"}, "has no 'state'"),
        ({**told, "run": {**told["run"], "layout": 7}}, "layout = 7: must be a group of keys"),
        ({**told, "rounds": [7]}, "cannot be worked out again"),
    ):
        step.write_text(json.dumps(harm))
        assert main(["replay", str(folder), "--step", "1", "--no-loss"]) == 2
        assert says in capsys.readouterr().err
