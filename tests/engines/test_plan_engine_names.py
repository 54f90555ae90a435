"""The plan's picture of the engine against vLLM: names of parameters, and their shapes as they were created.

Not covered: more than one rank, and where vLLM's loaders put each row.
"""

import pytest

from hpt_megatron.embedded.folder import tiny_model
from hpt_megatron.weights.plan.engine import engine_layout
from hpt_megatron.weights.simulate import shape_here

pytestmark = pytest.mark.slow


def shapes_of(model):
    return {name: tuple(param.shape) for name, param in model.named_parameters()}


def test_the_engine_has_the_parameters_that_the_plan_writes(engine):
    """A packed linear weight is of shape (0,) on the CPU and says no more; its bias and its neighbours do."""
    planned = {each.name: shape_here(each, each.shares[0]) for each in engine_layout(tiny_model(), 1).parameters}
    (served,) = engine.apply_model(shapes_of)
    assert planned.keys() == served.keys()
    apart = {name: (planned[name], shape) for name, shape in served.items() if shape not in (planned[name], (0,))}
    assert not apart
    seen = [name for name, shape in served.items() if shape != (0,)]
    assert len(seen) > len(served) / 3
