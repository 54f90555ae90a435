"""The configuration: its types, its files, the names that it takes. Not covered: what a run makes of it."""

import json

import pytest

from hpt_megatron.errors import UserError
from hpt_megatron.grpo import GRPOConfig, create_default_config, load_config_from_file, save_config_to_file

OF_THE_README = {
    "model_name": "unsloth/llama-3.1-8b-bnb-4bit",
    "max_seq_length": 2048,
    "learning_rate": 5e-7,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "max_samples": 1000,
    "output_dir": "./grpo_outputs",
    "beta": 0.1,
    "gamma": 1.0,
    "group_size": 4,
    "reward_function_type": "systematic",
    "reward_config_name": "balanced",
}


def test_the_file_of_the_readme_is_read_and_systematic_means_components(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(OF_THE_README))
    config = load_config_from_file(file)
    assert {name: getattr(config, name) for name in OF_THE_README} == OF_THE_README
    assert config.rewards == "multi"
    assert GRPOConfig().rewards == "single"


@pytest.mark.parametrize("name", ["mine.json", "mine.yaml"])
def test_a_saved_configuration_is_read_back_equal(tmp_path, name):
    config = create_default_config("qwen2.5-7b", "hh_rlhf")
    config.learning_rate = 1e-6
    config.num_train_epochs = 5
    config.max_samples = 5000
    config.overrides = ["trainer.weight_decay=0.0"]
    save_config_to_file(config, tmp_path / "deeper" / name)
    assert load_config_from_file(tmp_path / "deeper" / name) == config
    assert config != create_default_config("qwen2.5-7b", "hh_rlhf")


def test_yaml_reads_a_number_without_a_point(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("learning_rate: 5e-7\nnum_generations: 8\nmodel: qwen2.5-7b\n")
    config = load_config_from_file(file)
    assert (config.learning_rate, config.group_size, config.model_name) == (5e-7, 8, "qwen2.5-7b")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("learning_rate", "fast", "learning_rate: 'fast' is not a number"),
        ("learning_rate", 0.0, "a number above 0"),
        ("num_train_epochs", 1.5, "is not a whole number"),
        ("num_train_epochs", True, "is not a whole number"),
        ("max_samples", 0, "1 or more"),
        ("max_samples", "10", "is not a whole number"),
        ("group_size", 1, "2 or more"),
        ("beta", -0.1, "0 or more"),
        ("beta", float("nan"), "0 or more"),
        ("streaming", 1, "is not true or false"),
        ("overrides", "a=b", "is no list of texts"),
        ("reward_function_type", "triple", "one of single, multi, systematic"),
        ("reward_config_name", "fair", "one of balanced, accuracy, length, quality"),
        ("learning_rat", 1e-6, "did you mean learning_rate"),
    ],
)
def test_an_edit_that_cannot_be_is_one_line_and_changes_nothing(name, value, words):
    config = GRPOConfig()
    with pytest.raises(UserError, match=words) as told:
        setattr(config, name, value)
    assert "\n" not in str(told.value)
    assert config == GRPOConfig()


def test_whole_numbers_do_for_numbers_and_none_where_it_means_something():
    config = GRPOConfig(beta=0, max_samples=None, max_prompt_length=None)
    assert (config.beta, type(config.beta)) == (0.0, float)
    with pytest.raises(UserError, match="output_dir: None is not a text"):
        config.output_dir = None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"learning_rats": 1}', r"learning_rats: no such key; did you mean learning_rate\?"),
        ('{"group_size": 4, "num_generations": 8}', "group_size: is given twice"),
        ('{"beta": "high"}', "beta: 'high' is not a number"),
        ('["beta"]', "holds no keys"),
        ("{", "is not JSON"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_path_and_key(tmp_path, text, words):
    file = tmp_path / "wrong.json"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as told:
        load_config_from_file(file)
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: cannot be read: No such file"):
        load_config_from_file(tmp_path / "none.json")
