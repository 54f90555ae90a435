"""What a command line says, before Hydra sees it."""

import pytest

from hpt_megatron.config.load import KEYS, each_point, load, load_points, load_run
from hpt_megatron.config.overrides import read_overrides
from hpt_megatron.errors import UserError


def problem_at(loaded, path):
    found = [problem for problem in loaded.problems if problem.path == path]
    assert len(found) == 1, f"{path}: {[str(p) for p in loaded.problems]}"
    return found[0]


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ("trainer.unify_strategy=soft", "algorithm.unify_strategy", "soft"),
        ("data.reward_impl_version=7", "reward.reward_impl_version", 7),
        ("actor_rollout_ref.actor.sft_loss_coef=0.3", "algorithm.sft_loss_coef", 0.3),
        ("+actor_rollout_ref.actor.max_grad_norm=80.0", "trainer.max_grad_norm", 80.0),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=2", "rollout.tensor_parallel_size", 2),
        ("++layout.cp=1", "layout.cp", 1),
    ],
)
def test_known_names_from_elsewhere_are_read_and_reported(given, key, value):
    loaded = load([given])
    group, leaf = key.split(".")
    assert loaded.values[group][leaf] == value
    old = given.partition("=")[0].lstrip("+")
    assert loaded.renamed == ([] if old == key else [(old, key)])


def test_a_value_of_another_spelling_is_translated_and_reported():
    loaded = load(["actor_rollout_ref.actor.kl_loss_type=low_var_kl"])
    assert loaded.run.algorithm.kl_loss_type == "low_var"
    assert ("algorithm.kl_loss_type=low_var_kl", "algorithm.kl_loss_type=low_var") in loaded.renamed


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("layout.pt=2", "layout.tp"),
        ("trainer.unify_strateg=no", "algorithm.unify_strategy"),
        ("rollout.temprature=1", "rollout.temperature"),
        ("switch_gate=1", "algorithm.switch_gate"),
        ("modle=tiny", "model"),
        ("algorithm.kl_ctrl.targt_kl=1", "algorithm.kl_ctrl.target_kl"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(given, near):
    problem = problem_at(load([given]), given.partition("=")[0])
    assert problem.why == "no such key"
    assert problem.right.startswith(f"{near} ")


def test_every_known_key_misspelt_by_one_letter_is_recognised():
    """Not covered: two mistakes in one short key."""
    wrong = []
    for key in KEYS:
        group, _, leaf = key.rpartition(".")
        if len(leaf) < 5:
            continue
        misspelt = f"{group}.{leaf[:2]}{leaf[3:]}"
        problem = problem_at(read_overrides([f"{misspelt}=1"], keys=KEYS, choices={}), misspelt)
        if not problem.right.startswith(f"{key} "):
            wrong.append(f"{misspelt}: {problem.right}")
    assert not wrong


def test_all_unknown_keys_of_a_command_line_are_found_at_once():
    loaded = load(["a=1", "layout.b=2", "trainer.c=3", "model=nope", "experiment=hpt-8b", "layout.tp=1"])
    assert [p.path for p in loaded.problems] == ["a", "layout.b", "trainer.c", "model", "experiment"]
    assert loaded.run.layout.tp == 1, "what is right is still composed"
    assert "hpt-" in problem_at(loaded, "experiment").right


def test_a_retired_key_says_why():
    problem = problem_at(
        load(["actor_rollout_ref.actor.off_policy_normalize=True"]), "actor_rollout_ref.actor.off_policy_normalize"
    )
    assert "no effect in the released code" in problem.why


def test_a_key_without_its_code_says_what_it_waits_for():
    problem = problem_at(load(["trainer.max_optim_to_keep=1"]), "trainer.max_optim_to_keep")
    assert "nothing reads it yet" in problem.why


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("hydra.run.dir=/tmp/x", "hydra.run.dir"),
        ("~layout.tp", "layout.tp"),
        ("layout.tp", "layout.tp"),
        ("trainer.lr=[1", "trainer.lr"),
        ("", ""),
        ("=3", "=3"),
    ],
)
def test_what_is_no_override_is_a_problem_and_not_an_exception(given, path):
    loaded = load([given, "layout.vpp=1"])
    assert not loaded.ok
    assert path in [problem.path for problem in loaded.problems]


def test_the_order_of_overrides_does_not_matter():
    words = ["experiment=hpt-7b", "layout.tp=2", "model=qwen2.5-vl-3b", "data.train_batch_size=64"]
    assert load(words).values == load(words[::-1]).values


def test_what_is_changed_in_one_result_is_not_changed_in_the_next():
    """Files that ship are composed once for the same strings."""
    first = load(["experiment=hpt-7b"])
    first.values["algorithm"]["success"].clear()
    first.values["layout"]["tp"] = 99
    again = load(["experiment=hpt-7b"])
    assert again.values["layout"]["tp"] == 4
    assert again.values["algorithm"]["success"]


def test_nothing_given_is_the_embedded_default():
    assert load([]).values == load(["experiment=tiny-hpt"]).values


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("foo", "foo: is not an override; right would be: key=value or group=choice"),
        ("trainer.lr=[1", "trainer.lr = [1: cannot be read by Hydra's grammar"),
        ("~layout=tp2", "layout = tp2: layout cannot be removed; right would be: layout=CHOICE"),
        ("~layout", "layout: layout cannot be removed"),
        ("model.rope_scaling.factor=2", "model.rope_scaling is null in this model"),
        ("trainer.nested=1", "no such key; right would be: see `hpt config show`"),
        ("trainer.lr=nan", "trainer.lr = NaN: does not fit; right would be: a finite number"),
        ("trainer.seed='1'", 'trainer.seed = "1": is text; right would be: a whole number'),
        ("layout.tp=null", "right would be: a whole number, at least 1"),
        ("trainer.total_training_steps=0", "right would be: a whole number, at least 1, or null"),
        ("model.path='a\nb'", 'model.path = "a\\nb": no config.json there'),
        (f"model.path={'a' * 5000}", "no config.json there"),
    ],
)
def test_what_is_wrong_with_one_string_is_one_line(given, said):
    (problem,) = load([given]).problems
    assert said in str(problem)
    assert "\n" not in str(problem)


def test_an_optional_group_with_holes_names_each_hole_once():
    found = [(p.path, p.why) for p in load(["model.rope_scaling={factor: 2}"]).problems]
    holes = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    assert found == [(f"model.rope_scaling.{hole}", "is missing") for hole in holes]


def test_a_quoted_value_of_another_spelling_is_translated():
    assert load(["algorithm.kl_loss_type='low_var_kl'"]).run.algorithm.kl_loss_type == "low_var"


def test_a_point_says_all_that_was_asked():
    assert load(["layout.tp=[1", "modle=tiny"]).given == ["layout.tp=[1", "modle=tiny"]


@pytest.mark.parametrize(
    "sweep", ["model=glob(*)", "trainer.lr=interval(0,1)", "trainer.seed=shuffle(1,2)", "trainer.seed=range(3,0)"]
)
def test_a_sweep_without_a_list_of_points_is_a_problem(sweep):
    (point,) = load_points([sweep], multirun=True)
    assert [problem.path for problem in point.problems] == [sweep.partition("=")[0]]


def test_a_sweep_of_too_many_points_is_refused():
    with pytest.raises(UserError, match="at most 1024 points"):
        load_points(["layout.tp=range(1,100000)"], multirun=True)
    with pytest.raises(UserError, match="at most 1024 points"):
        load_points(["layout.tp=range(0,40)", "layout.pp=range(0,40)"], multirun=True)


def test_points_are_checked_one_at_a_time():
    total, points = each_point(["trainer.seed=range(0,1000)"], multirun=True)
    assert (total, next(points).run.trainer.seed) == (1000, 0)


def test_one_error_is_not_called_errors():
    with pytest.raises(UserError, match="the run has 1 error:"):
        load_run(["trainer.seed=-1"])


def test_a_sweep_needs_multirun():
    assert problem_at(load(["rollout.n_verify=4,8"]), "rollout.n_verify").right == "add --multirun"


def test_multirun_makes_every_point_and_checks_each():
    points = load_points(
        ["trainer.switch_gate=0,3,99", "experiment=tiny-hpt,hpt-7b", "rollout.temperature=range(1,3)"], multirun=True
    )
    assert len(points) == 12
    assert len({tuple(point.given) for point in points}) == 12
    assert [point.ok for point in points] == ["=99" not in point.given[0] for point in points]
    assert {point.run.model.num_hidden_layers for point in points} == {4, 28}


def test_multirun_collects_unknown_keys_in_every_point():
    points = load_points(["layout.pt=1,2", "modle=tiny"], multirun=True)
    assert [[problem.path for problem in point.problems] for point in points] == [["layout.pt", "modle"]] * 2


def test_a_folder_of_ones_own_adds_choices_and_aliases_work_inside_it(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# Mine.\ndefaults:\n  - override /model: qwen2.5-vl-3b\n  - override /layout: tp2\n"
        "trainer:\n  unify_strategy: no\n  max_optim_to_keep: 1\n  sed: 3\n"
        "actor_rollout_ref:\n  actor:\n    optim: {lr: 2.0e-6}\n"
    )
    loaded = load(["experiment=mine", "layout.cp=2"], tmp_path)
    assert loaded.run.algorithm.unify_strategy == "no", "YAML's bare no is read as it was meant"
    assert loaded.run.trainer.lr == 2.0e-6
    assert loaded.run.model.hidden_size == 2048
    assert {problem.path for problem in loaded.problems if problem.severity == "error"} == {
        "trainer.max_optim_to_keep",
        "trainer.sed",
    }
    assert problem_at(loaded, "trainer.sed").right.startswith("trainer.seed ")


def test_the_command_line_wins_over_an_alias_in_a_file(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# Mine.\ntrainer:\n  unify_strategy: soft\n"
    )
    loaded = load(["experiment=mine", "algorithm.unify_strategy=switch"], tmp_path)
    assert loaded.run.algorithm.unify_strategy == "switch"
