"""`--quick-test` and `--production`: what each stands for, printed before a run begins.

A preset comes before the file of `--config` and after the options of the command line: it is an option itself.

Example:
    >>> QUICK_TEST["model_name"], PRODUCTION["group_size"]
    ('tiny', 8)
"""

from typing import Any

QUICK_TEST: dict[str, Any] = {
    "model_name": "tiny",  # one million parameters, made on the spot
    "dataset_name": "count",  # an embedded task: pictures with dots
    "max_samples": 32,
    "max_seq_length": 160,
    "max_prompt_length": 128,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 4,
    "group_size": 4,
    "learning_rate": 1e-3,
    "eval_samples": 16,
    "eval_steps": 2,
    "save_steps": 2,
    "deterministic": True,
}
PRODUCTION: dict[str, Any] = {
    "max_samples": None,
    "max_seq_length": 4096,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 64,
    "group_size": 8,
    "learning_rate": 1e-6,
    "beta": 0.04,
    "enable_generation_logging": True,
    "max_generation_samples": 10,
    "eval_samples": 256,
    "eval_steps": 25,
    "save_steps": 50,
}
