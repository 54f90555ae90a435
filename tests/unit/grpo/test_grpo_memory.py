"""The advice where memory ran out. Not covered: a device that really runs out of it."""

import pytest

from hpt_megatron.driver.ray.call import MemoryShortError
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.grpo import GRPOConfig, GRPOTrainer
from hpt_megatron.grpo.memory import advised, short_of_memory
from hpt_megatron.grpo.trainer import LOG
from hpt_megatron.recipes.train import with_less


def torch_error():
    import torch

    try:
        torch.empty(1 << 60)
    except RuntimeError as error:
        return error
    raise AssertionError


def of_the_recipe():
    """What a run with counted rows says when a role is short of memory."""
    from hpt_megatron.grpo.mapping import mapped, run_of
    from hpt_megatron.grpo.models import model_for

    config = GRPOConfig(model_name="tiny")
    with pytest.raises(UserError) as told:
        with_less(run_of(mapped(config, model_for(config))))
    return told.value


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryShortError("the trainer ran out of memory", where="ray"),
        HptError("a process of the trainer died (OutOfMemoryError)", where="ray"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        ValueError("No available memory for the cache blocks."),
        torch_error(),
        of_the_recipe(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_way_to_run_out_of_memory_ends_in_the_advice(error):
    assert short_of_memory(error)
    line = str(advised(error))
    assert "out of memory" in line.lower()
    assert "--batch-size 1" in line
    assert "gradient_accumulation_steps" in line
    assert "\n" not in line


def test_other_failures_are_left_alone():
    assert not short_of_memory(UserError("no such file", where="data.train_files[0]"))
    assert not short_of_memory(ValueError("a memory of summer"))


def fails(trainer):
    with trainer.logged():
        try:
            raise RuntimeError("CUDA out of memory")
        except RuntimeError as error:
            raise HptError("the engine did not start") from error


def test_what_a_failure_came_from_counts_and_the_log_has_an_error_line(tmp_path):
    with pytest.raises(HptError, match="--batch-size 1"):
        fails(GRPOTrainer(GRPOConfig(model_name="tiny", output_dir=str(tmp_path))))
    log = (tmp_path / LOG).read_text()
    assert " ERROR HptError: out of memory: the engine did not start; --batch-size 1" in log
