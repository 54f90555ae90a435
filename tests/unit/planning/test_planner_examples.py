"""The examples in the planner's modules hold, and the picture of a host's rates is one of this host."""

import doctest
import importlib
import pkgutil

import pytest

from hpt_megatron import planning
from hpt_megatron.planning.this_host import memory_rate, product_rate

pytestmark = pytest.mark.fast
MODULES = sorted(module.name for module in pkgutil.iter_modules(planning.__path__))


@pytest.mark.parametrize("name", [name for name in MODULES if name != "answer"])
def test_the_examples_of_a_module_hold(name):
    """Without that of answer.py, which ranks layouts for a second; the command's tests do as much."""
    assert doctest.testmod(importlib.import_module(f"hpt_megatron.planning.{name}")).failed == 0


def test_some_modules_have_examples():
    assert len(MODULES) >= 15
    found = [doctest.DocTestFinder().find(importlib.import_module(f"hpt_megatron.planning.{name}")) for name in MODULES]
    assert sum(len(test.examples) for tests in found for test in tests) > 15


def test_rates_of_this_host_are_those_of_a_computer():
    assert 0.1 < memory_rate() < 10_000
    assert 1e8 < product_rate() < 1e15
