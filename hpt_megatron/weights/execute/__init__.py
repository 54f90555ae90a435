"""Reads and writes whole checkpoints, one tensor at a time: the conversion between the two formats."""
