"""The sizes of the tiny Qwen2.5-VL, in the words of Qwen's configuration; `configs/model/tiny.yaml` states the same.

Every size keeps the shape of the real model (grouped heads, window and full attention in the vision tower, three
sections of rotary positions) at the smallest number that the engines take: vLLM's attention on a CPU refuses heads of
16 in the language model, so they are 32. Real are also the patch, merge and window sizes, so that the real code runs.

Invariants:
    1. The sections of the rotary positions sum to half a head.
    2. The matrix has more rows than the tokenizer has tokens, as in the real model: the rest must never be sampled.

Example:
    >>> TINY.hidden_size // TINY.num_attention_heads
    32
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class VisionSizes:
    """The vision tower."""

    depth: int = 2
    hidden_size: int = 64
    num_heads: int = 4
    intermediate_size: int = 128
    out_hidden_size: int = 128
    in_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (1,)
    tokens_per_second: int = 2


@dataclass(frozen=True)
class TinySizes:
    """The language model, and the vision tower in it."""

    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    intermediate_size: int = 384
    vocab_size: int = 512
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    mrope_section: tuple[int, ...] = (4, 6, 6)
    tie_word_embeddings: bool = True
    vision: VisionSizes = field(default_factory=VisionSizes)

    @property
    def head_dim(self) -> int:
        """The size of one attention head."""
        return self.hidden_size // self.num_attention_heads


TINY = TinySizes()
INITIALIZER_RANGE = 0.05  # the usual 0.02 is too small for so narrow a model and so few steps
MIN_PIXELS, MAX_PIXELS = 28 * 28, 64 * 28 * 28  # 1 to 64 visual tokens per image
