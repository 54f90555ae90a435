"""What fields become: keys of a run that is checked. Not covered: the run itself."""

import pytest

from hpt_megatron.config.algorithm import needs_reference
from hpt_megatron.config.checkpoint import model_of
from hpt_megatron.driver.loop.run import total_steps
from hpt_megatron.embedded.text_folder import write_text_model
from hpt_megatron.errors import UserError
from hpt_megatron.grpo import GRPOConfig
from hpt_megatron.grpo.data import read_dataset
from hpt_megatron.grpo.mapping import checkpoint_of, mapped, run_of, table, with_files
from hpt_megatron.grpo.models import model_for, preset_of
from hpt_megatron.observe.trackers.tracker import kinds_of


def run(**values):
    config = GRPOConfig(**{"model_name": "tiny", **values})
    return run_of(mapped(config, model_for(config)))


def test_every_field_reaches_the_run(tmp_path):
    made = run(
        max_seq_length=300,
        learning_rate=2e-6,
        num_train_epochs=5,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=4,
        group_size=6,
        output_dir=str(tmp_path),
        beta=0.3,
        gamma=0.5,
        temperature=0.7,
        eval_steps=4,
        save_steps=9,
        seed=8,
        max_generation_samples=2,
        generation_log_dir="logs",
    )
    assert (made.rollout.max_model_len, made.data.max_prompt_length, made.data.max_response_length) == (300, 150, 150)
    assert (made.trainer.lr, made.trainer.total_epochs, made.trainer.total_training_steps) == (2e-6, 5, None)
    assert (made.data.train_batch_size, made.trainer.ppo_mini_batch_size, made.trainer.ppo_micro_batch_size) == (
        2,
        2,
        3,
    )
    assert (made.rollouts_per_prompt, made.trainer.use_dynamic_bsz) == (6, False)
    assert (made.algorithm.kl_loss_coef, made.algorithm.gamma, made.rollout.temperature) == (0.3, 0.5, 0.7)
    assert needs_reference(made.algorithm)
    assert (made.trainer.test_freq, made.trainer.save_freq, made.trainer.seed) == (4, 9, 8)
    assert (made.trainer.log_val_generations, made.trainer.generation_log_dir) == (2, "logs")
    assert (made.trainer.run_dir, made.model.path) == (str(tmp_path), None)
    assert made.algorithm.unify_strategy == "no"
    assert made.algorithm.offline_loss_type == "none"


def test_beta_zero_loads_no_reference():
    assert not needs_reference(run(beta=0.0).algorithm)


def test_epochs_are_honoured_in_the_number_of_steps():
    assert total_steps(run(num_train_epochs=3), 20) == 3 * (20 // 2)
    assert total_steps(run(num_train_epochs=1), 20) == 10


def test_a_batch_that_is_no_whole_number_of_groups_is_explained():
    with pytest.raises(UserError, match=r"3 on a device x 1 accumulated x 1 data-parallel = 3 responses") as told:
        run(per_device_train_batch_size=3, gradient_accumulation_steps=1, group_size=4)
    assert "no whole number of groups of 4" in str(told.value)
    assert "gradient_accumulation_steps" in str(told.value)


def test_batch_size_one_with_more_accumulation_is_the_same_step():
    wide, narrow = (
        run(per_device_train_batch_size=4),
        run(per_device_train_batch_size=1, gradient_accumulation_steps=16),
    )
    assert wide.data.train_batch_size == narrow.data.train_batch_size == 4
    assert (wide.trainer.ppo_micro_batch_size, narrow.trainer.ppo_micro_batch_size) == (4, 1)


def test_nothing_is_logged_where_logging_is_off_and_wandb_only_where_a_project_is_named():
    assert run(enable_generation_logging=False).trainer.log_val_generations == 0
    assert set(kinds_of(run().trainer.logger)) == {"tensorboard"}
    named = run(wandb_project="my-grpo-project")
    assert set(kinds_of(named.trainer.logger)) == {"tensorboard", "wandb"}
    assert named.trainer.project_name == "my-grpo-project"


def test_set_comes_before_what_a_field_became_and_may_choose_the_layout():
    made = run(learning_rate=1e-3, overrides=["trainer.lr=5e-4", "trainer.n_gpus_per_node=2"])
    assert made.trainer.lr == 5e-4
    assert made.data.train_batch_size == 4, "two data-parallel ranks take twice the responses"
    with pytest.raises(UserError, match=r"trainer\.lrr"):
        run(overrides=["trainer.lrr=1"])


def test_a_sequence_must_leave_room_for_a_response():
    with pytest.raises(UserError, match="leave nothing of 100"):
        run(max_seq_length=100, max_prompt_length=100)


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("unsloth/llama-3.1-8b-bnb-4bit", "llama-3.1-8b"),
        ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl-7b"),
        ("google/gemma-2-9b-it", "gemma-2-9b"),
    ],
)
def test_names_of_the_hub_mean_presets(name, preset):
    assert preset_of(name) == preset


def test_the_named_models_are_runs_without_errors_and_four_bits_are_noted():
    for name, family in (("llama-3.1-8b", "llama3_1"), ("llama-3.1-70b", "llama3_1"), ("qwen2.5-7b", "qwen2_5")):
        assert run(model_name=name).model.family == family
    model = model_for(GRPOConfig(model_name="unsloth/llama-3.1-8b-bnb-4bit"))
    assert "Llama-3.1-8B-Instruct" in model.missing
    assert any("4-bit weights are not trained on Megatron" in note for note in model.notes)
    with pytest.raises(UserError, match=r"no such model, and no folder: qwen2\.5-8b; qwen2\.5-7b"):
        model_for(GRPOConfig(model_name="qwen2.5-8b"))


@pytest.mark.parametrize("family", ["qwen2_5", "llama3_1", "qwen2_5_vl"])
def test_a_folder_has_the_shape_of_its_config(tmp_path, tiny, family):
    folder = tiny if family == "qwen2_5_vl" else write_text_model(tmp_path / "m", family)
    made = run(model_name=str(folder))
    assert made.model == model_of(folder)
    assert made.trainer.placement == "host"


def test_rows_and_reward_become_files_of_the_run(tmp_path):
    config = GRPOConfig(model_name="tiny", dataset_name="count", max_samples=16, output_dir=str(tmp_path / "out"))
    keys, notes = with_files(config, mapped(config, model_for(config)), read_dataset(config))
    made = run_of(keys)
    assert len((tmp_path / "out" / "data").glob("train-*.jsonl").__next__().read_text().splitlines()) == 16
    assert made.data.train_files[0].startswith(str(tmp_path / "out" / "data" / "train-"))
    assert made.reward.file == str(tmp_path / "out" / "reward.json")
    assert "the weights sum to 1" in notes[0]
    assert any("trainer.lr=5e-07" in line and "learning_rate" in line for line in table(keys))


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no checkpoint is there"):
        checkpoint_of(str(tmp_path))
