"""The shape of a model, as its checkpoint's `config.json` states it, in that file's own words.

A run carries the shape so that a login node can check layouts, memory and buckets without the weights; where
`path` is given, `rules/model.py` holds this shape against the checkpoint's and refuses a difference.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

Count = Annotated[int, "at least 1"]
"""A size that others are divided by; rules may rely on it."""
Name = Annotated[str, "a name"]
"""A name from a list that other packages can add to; YAML reads a bare `no` as false, and it is understood."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The vision tower and its merger."""

    depth: Count
    hidden_size: Count
    num_heads: Count
    intermediate_size: Count
    out_hidden_size: Count
    in_channels: Count
    patch_size: Count
    temporal_patch_size: Count
    spatial_merge_size: Count
    window_size: Count
    fullatt_block_indexes: tuple[int, ...]
    tokens_per_second: Count


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3.1's stretching of the low rotary frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: Count


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A language model, with a vision tower or without."""

    family: Literal["qwen2_5_vl", "qwen2_5", "llama3_1"]
    path: str | None
    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Count
    intermediate_size: Count
    vocab_size: Count
    tie_word_embeddings: bool
    attention_bias: bool
    max_position_embeddings: Count
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, ...] | None
    rope_scaling: RopeScaling | None
    image_token_id: int | None
    video_token_id: int | None
    vision: VisionConfig | None
