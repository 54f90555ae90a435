"""Hybrid post-training (HPT) of Qwen2.5-VL: a gate per prompt between imitation and exploration, on Megatron-core,
vLLM and Ray. Importing this package imports nothing else; `hpt --help` shows what can be run."""

__version__ = "0.1.0"
