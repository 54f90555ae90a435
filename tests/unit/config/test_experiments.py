"""What ships in `configs/`: sizes of the real models, the values of the debug preset."""

import pytest

from hpt_megatron.config.files import configs_folder, describe, groups
from hpt_megatron.config.geometry import largest_tensor, padded_vocab_size, parameters, vision_parameters
from hpt_megatron.config.load import load
from hpt_megatron.config.problem import errors

# As the published checkpoints count: all parameters, and those of the vision tower.
PUBLISHED = {
    "qwen2.5-vl-3b": (3_754_622_976, 668_684_288),
    "qwen2.5-vl-7b": (8_292_166_656, 676_550_144),
    "qwen2.5-vl-32b": (33_452_718_336, 688_841_984),
    "qwen2.5-vl-72b": (73_410_777_344, 704_573_696),
    "qwen2.5-0.5b": (494_032_768, 0),
    "qwen2.5-1.5b": (1_543_714_304, 0),
    "qwen2.5-3b": (3_085_938_688, 0),
    "qwen2.5-7b": (7_615_616_512, 0),
    "qwen2.5-14b": (14_770_033_664, 0),
    "qwen2.5-32b": (32_763_876_352, 0),
    "qwen2.5-72b": (72_706_203_648, 0),
    "llama-3.1-8b": (8_030_261_248, 0),
    "llama-3.1-70b": (70_553_706_496, 0),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_model_counts_what_its_checkpoint_counts(name):
    model = load([f"model={name}"]).run.model
    vision = vision_parameters(model.vision) if model.vision else 0
    assert (parameters(model), vision) == PUBLISHED[name]


def test_every_model_file_is_one_of_these_or_the_tiny_one():
    assert set(groups()["model"]) == {*PUBLISHED, "tiny"}
    assert 1_000_000 < parameters(load([]).run.model) < 1_200_000


def test_the_parameters_in_a_model_files_first_line_are_the_computed_ones():
    for name, (total, _) in PUBLISHED.items():
        stated = describe("model", name).rpartition(": ")[2].split()[0]
        assert f"{total / 1e9:.{len(stated.partition('.')[2])}f}" == stated, name


def test_the_published_paddings_and_the_largest_tensor_of_the_72b():
    model = load(["experiment=hpt-72b"]).run.model
    assert [padded_vocab_size(model.vocab_size, 128, tp) for tp in (1, 2, 4, 8)] == [152064, 152064, 152064, 152576]
    name, elements = largest_tensor(model)
    assert name == "model.embed_tokens.weight"
    assert round(elements * 2 / 2**30, 2) == 2.32


@pytest.mark.parametrize("name", groups()["experiment"])
def test_no_experiment_has_an_error(name):
    assert [str(problem) for problem in errors(load([f"experiment={name}"]).problems)] == []


@pytest.mark.parametrize(
    ("name", "spread"),
    [("hpt-3b", (2, 1, 4, 8)), ("hpt-7b", (4, 1, 2, 8)), ("hpt-32b", (8, 2, 2, 32)), ("hpt-72b", (8, 4, 2, 64))],
)
def test_the_layouts_of_the_real_sizes(name, spread):
    run = load([f"experiment={name}"]).run
    assert (run.layout.tp, run.layout.pp, run.dp, run.devices) == spread


def test_the_debug_preset_carries_the_debug_scripts_values():
    run = load(["experiment=seed_debug"]).run
    assert (run.rollout.n, run.rollout.n_verify, run.rollout.n_val, run.data.train_batch_size) == (1, 1, 1, 1)
    assert (run.data.max_prompt_length, run.data.max_response_length) == (256, 256)
    assert (run.trainer.lr, run.trainer.ppo_mini_batch_size, run.trainer.ppo_micro_batch_size) == (5e-6, 4, 1)
    assert (run.trainer.max_grad_norm, run.trainer.n_gpus_per_node, run.trainer.nnodes) == (80.0, 2, 1)
    assert (run.trainer.save_freq, run.trainer.test_freq, run.trainer.total_training_steps) == (50, 0, 1)
    assert (run.rollout.max_turns, run.rollout.agent, run.rollout.gpu_memory_utilization) == (5, "vrag", 0.4)
    assert (run.algorithm.unify_strategy, run.algorithm.switch_gate) == ("switch", 0)
    assert (run.algorithm.adv_estimator, run.algorithm.grpo_use_std) == ("grpo", False)
    assert (run.reward.reward_impl_version, run.algorithm.use_kl_loss, run.algorithm.kl_ctrl.kl_coef) == (7, False, 0.0)


def test_every_choice_says_what_it_is_and_bases_are_not_choices():
    for group, choices in groups().items():
        assert choices, group
        for choice in choices:
            assert describe(group, choice).endswith("."), f"{group}/{choice}"
            assert choice != "base"
    assert (configs_folder() / "train.yaml").is_file()
