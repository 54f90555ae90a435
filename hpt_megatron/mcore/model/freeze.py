"""Gradients off for what `weights/frozen.py` says stands still."""

from collections.abc import Iterable

import torch


def freeze(named: Iterable[tuple[str, torch.nn.Parameter]], names: set[str]) -> None:
    """Switches gradients off for the parameters of one stage, given by their names over the whole model."""
    for name, param in named:
        param.requires_grad_(name not in names)
