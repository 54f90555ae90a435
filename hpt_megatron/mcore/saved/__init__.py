"""Checkpoints of a run in megatron-core's distributed format."""
