"""The examples in the modules of `hpt_megatron.grpo`."""

import doctest
import importlib
import pkgutil

import pytest

from hpt_megatron import grpo

NAMES = [each.name for each in pkgutil.iter_modules(grpo.__path__, "hpt_megatron.grpo.")]


@pytest.mark.parametrize("name", [*NAMES, "hpt_megatron.rewards.unified", "hpt_megatron.data.chat_form"])
def test_every_example_gives_what_it_says(name):
    """Not covered: the example of the package, which trains."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0
