"""Configuration files of the user's own: every mistake of a file is found, in one line each."""

import pytest

from hpt_megatron.config.load import load, load_run
from hpt_megatron.errors import UserError

HEAD = "# @package _global_\n# Mine.\n"
TINY = "defaults: [tiny-hpt, _self_]\n"


def written(folder, text, name="mine", group="experiment"):
    (folder / group).mkdir(exist_ok=True, parents=True)
    file = folder / group / f"{name}.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def lines(loaded):
    return [str(problem) for problem in loaded.problems]


def only_line(loaded):
    (line,) = lines(loaded)
    assert "\n" not in line
    return line


TEN = """defaults:
  - override /modle: qwen2.5-vl-3b
  - override /layout: tp3
  - override reward: rag
rollout: [1]
trainer: {lr: fast, sed: 3, max_optim_to_keep: 1, total_training_steps: 0}
data: {train_batch_size: 100}
actor_rollout_ref: {actor: {off_policy_normalize: true}}
algorithm: {kl_loss_type: low_var_kl, pass_k: 900}
"""


def test_ten_mistakes_of_one_file_are_all_found(tmp_path):
    """Three entries of `defaults`, a list for a group, types, names and rules; what is right still counts."""
    loaded = load(["experiment=mine"], written(tmp_path, HEAD + TEN))
    found = {(p.path.removeprefix(str(tmp_path)), p.why.replace(";", ":").partition(":")[0]) for p in loaded.problems}
    assert found >= {
        ("/experiment/mine.yaml: defaults", "no such group"),
        ("/experiment/mine.yaml: defaults", "no such choice"),
        ("/experiment/mine.yaml: defaults", "does not choose a group anew"),
        ("rollout", "must be a group of keys"),
        ("trainer.lr", "is text"),
        ("trainer.sed", "no such key"),
        ("trainer.max_optim_to_keep", "nothing reads it yet"),
        ("trainer.total_training_steps", "does not fit"),
        ("actor_rollout_ref.actor.off_policy_normalize", "no longer means anything"),
    }
    assert {"data.train_batch_size", "algorithm.pass_k"} <= {p.path for p in loaded.problems}
    rights = " ".join(p.right for p in loaded.problems)
    assert "override /model" in rights
    assert "tp2" in rights
    assert "override /reward: rag" in rights
    assert loaded.run.algorithm.kl_loss_type == "low_var"
    assert loaded.run.data.train_batch_size == 100


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "trainer: {lr: [\n", "mine.yaml:4: expected the node content"),
        (b"# \xff\n", "mine.yaml is not UTF-8"),
        (HEAD + "- 1\n", "mine.yaml is no group of keys"),
        (HEAD + "layout:\n  tp: 1\n  tp: 2\n", "mine.yaml:5: found duplicate key tp"),
        (HEAD + "layout: {tp: '${nope}'}\n", "Interpolation key 'nope' not found (at layout.tp)"),
        (TINY + "trainer: {lr: 1.0e-6}\n", "a file that begins with `# @package _global_`"),
        (HEAD + TINY + "model: tiny\n", "model = tiny: must be a group of keys; right would be: family, path"),
        (HEAD + TINY + "model: {vision: 3}\n", "model.vision = 3: must be a group of keys; right would be: depth"),
    ],
)
def test_a_file_that_cannot_be_taken_is_one_line(tmp_path, text, said):
    assert said in only_line(load(["experiment=mine"], written(tmp_path, text)))


def test_a_dotted_key_and_a_number_for_a_group_are_problems_and_not_exceptions(tmp_path):
    text = HEAD + "trainer.unify_strategy: soft\n3: 4\ntrainer: 5\nactor_rollout_ref: {actor: {optim: {lr: 1.0e-6}}}\n"
    found = [p.path for p in load(["experiment=mine"], written(tmp_path, text)).problems]
    assert {"trainer.unify_strategy", "3", "trainer"} <= set(found)


def test_the_name_of_a_shipped_choice_cannot_be_taken(tmp_path):
    written(tmp_path, "# Mine.\n", name="tp2", group="layout")
    with pytest.raises(UserError, match="give it another name") as refused:
        load([], tmp_path)
    assert str(refused.value).count("layout/tp2.yaml") == 2


def test_a_group_that_does_not_ship_is_not_offered(tmp_path):
    written(tmp_path, "a: 1\n", group="modles")
    assert only_line(load(["modles=mine"], tmp_path)).startswith("error: modles = mine: no such key")


def test_a_folder_may_have_an_apostrophe_and_no_dollar(tmp_path):
    folder = written(tmp_path / "o'brien, and co", HEAD + TINY + "trainer: {seed: 7}\n")
    assert load_run(["experiment=mine"], folder).trainer.seed == 7
    with pytest.raises(UserError, match="rename the folder"):
        load([], written(tmp_path / "$HOME", HEAD))


def test_a_value_of_another_spelling_hides_nothing_when_another_key_is_wrong(tmp_path):
    folder = written(tmp_path, HEAD + TINY + "algorithm: {kl_loss_type: kl}\nlayout: {tp: 1}\n")
    loaded = load(["experiment=mine", "trainer.seed=x"], folder)
    assert [p.path for p in loaded.problems] == ["trainer.seed"]
    assert loaded.run.algorithm.kl_loss_type == "k1"
