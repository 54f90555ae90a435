"""GRPO in the words of TRL's users: one configuration, one data loader, one trainer, one command.

A thin face: nothing is trained or scored here. A `GRPOConfig` becomes keys of a run (`mapping.py`), its rows a file of
prompts (`data.py`), its reward a composition (`reward.py`), and `recipes/` does the rest. `launch/train_grpo.py` is the
command.

Example:
    from hpt_megatron.grpo import GRPOConfig, GRPOTrainer, create_grpo_dataloader

    config = GRPOConfig(model_name="tiny", dataset_name="count", max_samples=64, output_dir="runs/mine")
    loader, dataset = create_grpo_dataloader(config.model_name, config.dataset_name, config.max_samples)
    trainer = GRPOTrainer(config)
    trainer.load_model()
    trainer.train(dataset)
    trainer.save_model()
"""

from hpt_megatron.grpo.config import (
    GRPOConfig,
    create_default_config,
    load_config_from_file,
    save_config_to_file,
)
from hpt_megatron.grpo.data import GRPODataset, create_grpo_dataloader
from hpt_megatron.grpo.trainer import GRPOTrainer

__all__ = [
    "GRPOConfig",
    "GRPODataset",
    "GRPOTrainer",
    "create_default_config",
    "create_grpo_dataloader",
    "load_config_from_file",
    "save_config_to_file",
]
