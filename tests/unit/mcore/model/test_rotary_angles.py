"""Rotary angles, against transformers' own modules under the shapes of configs/model.

Not covered: how megatron-core applies them; that is in the comparisons of whole models.
"""

import doctest
import math

import pytest
import torch

from hpt_megatron.config.load import load
from hpt_megatron.config.model import RopeScaling
from hpt_megatron.embedded.model_config import model_config
from hpt_megatron.embedded.random_folder import text_config
from hpt_megatron.mcore.model import rotary
from hpt_megatron.mcore.model.rotary import Rotary, stretched

VISUAL = ["tiny", "qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen2.5-vl-32b", "qwen2.5-vl-72b"]
TEXT = ["qwen2.5-0.5b", "qwen2.5-7b", "llama-3.1-8b", "llama-3.1-70b"]


def shape(name):
    return load([f"model={name}"]).run.model


def drawn(most):
    return torch.randint(most, (3, 50), generator=torch.Generator().manual_seed(0))


def test_the_example_of_the_angles_holds():
    result = doctest.testmod(rotary)
    assert (result.failed, result.attempted) == (0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", VISUAL)
def test_angles_of_three_dimensions_are_those_of_transformers(name):
    """Cosine and sine, bit for bit, where time, height and width differ."""
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding

    model = shape(name)
    config = Qwen2_5_VLConfig(**model_config(model, model.vision)).text_config
    positions = drawn(4000)
    cos, sin = Qwen2_5_VLRotaryEmbedding(config)(torch.zeros(1), positions[:, None])
    angles = Rotary.of(model).angles(positions)[:, 0, 0]
    assert torch.equal(angles.cos(), cos[0])
    assert torch.equal(angles.sin(), sin[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT)
def test_angles_of_the_text_families_are_those_of_transformers(name):
    from transformers import LlamaConfig, Qwen2Config
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    model = shape(name)
    llama = model.family == "llama3_1"
    config = (LlamaConfig if llama else Qwen2Config)(**text_config(model))
    assert (config.rope_parameters["rope_type"] == "llama3") is llama
    positions = drawn(30000)[:1].expand(3, -1)
    cos, sin = (LlamaRotaryEmbedding if llama else Qwen2RotaryEmbedding)(config)(torch.zeros(1), positions[:1])
    angles = Rotary.of(model).angles(positions)[:, 0, 0]
    assert torch.equal(angles.cos(), cos[0])
    assert torch.equal(angles.sin(), sin[0])


def test_sections_give_their_channels_to_time_height_and_width():
    """16, 24 and 24 of 64 pairs; both halves alike."""
    angles = Rotary(128, 1e6, (16, 24, 24)).angles(torch.tensor([[1], [10], [100]]))[0, 0, 0]
    turns = angles / Rotary(128, 1e6).frequencies().repeat(2)
    assert turns.round().tolist() == ([1.0] * 16 + [10.0] * 24 + [100.0] * 24) * 2


def test_llama_s_slow_wavelengths_are_divided_and_its_fast_ones_stay():
    """At the ends of the blend, its middle, and beyond both, by value."""
    scaling = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    wavelengths = torch.tensor([100.0, 2000.0, 8192 / 2.5, 9000.0, 1e6])
    told = stretched(2 * math.pi / wavelengths, scaling) * wavelengths / (2 * math.pi)
    torch.testing.assert_close(told, torch.tensor([1.0, 1.0, 0.5 + 0.5 / 8, 1 / 8, 1 / 8]))


def test_a_model_without_sections_counts_in_the_first_dimension_alone():
    rotary_of_text = Rotary(8, 1e4)
    same, other = torch.tensor([[3], [3], [3]]), torch.tensor([[3], [5], [7]])
    assert torch.equal(rotary_of_text.angles(same), rotary_of_text.angles(other))
    assert rotary_of_text.angles(same).shape == (1, 1, 1, 8)
