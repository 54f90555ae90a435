"""The tiny model's tensors, drawn from a seed, under the names that the hub's checkpoints of Qwen2.5-VL use.

Invariants:
    1. The same seed gives the same bits in every process: each tensor has a generator of its own, seeded by the seed
       and its place in the table, and numpy draws on one thread. (A new release of numpy may draw differently.)
    2. No tensor is constant. Fresh biases are usually 0 and norms 1; here they are random as well, so that a conversion
       which swaps, drops or forgets one of them changes what the model says.
    3. With tied embeddings there is no `lm_head.weight`.

Example:
    >>> from hpt_megatron.embedded.folder import tiny_model
    >>> sum(tensor.size for tensor in draw(tiny_model()).values())
    1111488
"""

import numpy as np
from numpy.typing import NDArray

from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.shapes import Shape, shapes

INITIALIZER_RANGE = 0.05  # the usual 0.02 is too small for so narrow a model and so few steps


def draw(model: ModelConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """All tensors, drawn from the seed."""
    return {name: draw_one(name, shape, [seed, place]) for place, (name, shape) in enumerate(shapes(model).items())}


def draw_one(name: str, shape: Shape, seed: list[int]) -> NDArray[np.float32]:
    """One tensor: around 1 for a norm, around 0 otherwise."""
    values = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)
    middle = np.float32(1.0 if "norm" in name or "ln_q" in name else 0.0)
    return middle + np.float32(INITIALIZER_RANGE) * values
