"""The tiny model's sizes and tensors, by arithmetic."""

import math

import numpy as np
import pytest

from hpt_megatron.config.geometry import language_parameters, largest_tensor, parameters
from hpt_megatron.embedded import weights
from hpt_megatron.embedded.folder import tiny_model

pytestmark = pytest.mark.fast

TINY = tiny_model()


def draw(seed=0):
    return weights.draw(TINY, seed)


def test_the_parameters_are_those_of_the_architecture_by_arithmetic():
    """Layer by layer from the numbers alone, not from the table of shapes."""
    attention = (128 * 128 + 128) + 2 * (64 * 128 + 64) + 128 * 128
    language = 512 * 128 + 4 * (attention + 3 * 384 * 128 + 2 * 128) + 128
    block = (192 * 64 + 192) + (64 * 64 + 64) + 2 * (128 * 64 + 128) + (64 * 128 + 64) + 2 * 64
    vision = 64 * 3 * 2 * 14 * 14 + 2 * block + 64 + (256 * 256 + 256) + (128 * 256 + 128)
    assert (language_parameters(TINY), parameters(TINY)) == (language, language + vision)
    assert sum(tensor.size for tensor in draw().values()) == language + vision == 1_111_488


def test_the_largest_tensor_is_found_among_all_of_them():
    """In the tiny model it is the patch embedding, not the token embedding."""
    sizes = {name: tensor.size for name, tensor in draw().items()}
    assert largest_tensor(TINY) == max(sizes.items(), key=lambda pair: pair[1])


def test_the_sizes_fit_each_other():
    assert TINY.head_dim == 32
    assert 2 * sum(TINY.mrope_section) == TINY.head_dim
    assert TINY.num_attention_heads % TINY.num_key_value_heads == 0
    assert TINY.vision.out_hidden_size == TINY.hidden_size
    assert TINY.vision.hidden_size // TINY.vision.num_heads % 4 == 0


def test_no_tensor_is_constant_and_no_two_are_alike():
    drawn = draw()
    assert all(tensor.dtype == np.float32 for tensor in drawn.values())
    assert all(float(tensor.std()) > 0.02 for tensor in drawn.values())
    firsts = [tensor.ravel()[:8].tobytes() for tensor in drawn.values()]
    assert len(set(firsts)) == len(firsts)


def test_norms_are_around_one_and_everything_else_around_zero():
    for name, tensor in draw().items():
        middle = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "ln_q.weight")) else 0.0
        assert float(tensor.mean()) == pytest.approx(middle, abs=5 * 0.05 / math.sqrt(tensor.size)), name


def test_every_tensor_follows_the_seed():
    first, again, other = draw(seed=0), draw(seed=0), draw(seed=1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_no_tensor_is_named_after_the_tied_head():
    assert "lm_head.weight" not in draw()
    assert {name.split(".")[0] for name in draw()} == {"model", "visual"}
