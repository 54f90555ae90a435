"""Rotary angles of a whole pack, for positions of one dimension or of three (MRoPE).

Decision: the table is computed uncut, with one row per slot of the pack, and megatron-core looks it up sequence by
sequence. Its own path cuts the table before that lookup, which is exact without context parallelism and silently wrong
with it. Fusion of the rotation stays off for the same reason.

The frequencies are those of `base^(-2i/d)`. Llama 3.1 stretches the slow ones: wavelengths beyond
original / low_freq_factor are divided by `factor`, those below original / high_freq_factor stay, and in between the two
are blended.

Example:
    >>> rotary = Rotary(head_dim=4, base=10000.0, sections=(1, 0, 1))
    >>> rotary.angles(torch.tensor([[0, 5], [0, 6], [0, 7]])).flatten(1).tolist()[1]
    [5.0, 0.07000000029802322, 5.0, 0.07000000029802322]
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hpt_megatron.config.model import ModelConfig, RopeScaling


@dataclass(frozen=True)
class Rotary:
    """What the angles depend on besides the positions."""

    head_dim: int
    base: float
    sections: tuple[int, ...] | None = None
    scaling: RopeScaling | None = None

    @classmethod
    def of(cls, model: ModelConfig) -> "Rotary":
        """As the model's configuration says."""
        return cls(model.head_dim, model.rope_theta, model.mrope_section, model.rope_scaling)

    def frequencies(self) -> Tensor:
        """[d / 2] turns per position, in radians."""
        plain = 1.0 / self.base ** (torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim)
        return plain if self.scaling is None else stretched(plain, self.scaling)

    def angles(self, positions: Tensor) -> Tensor:
        """[3, T] positions (time, height, width) to [T, 1, 1, d], in the form that megatron-core takes."""
        turns = positions.float()[..., None] * self.frequencies().to(positions.device)
        if self.sections is None:
            half = turns[0]
        else:
            half = torch.cat([part[axis] for axis, part in enumerate(turns.split(self.sections, -1))], -1)
        return torch.cat((half, half), -1)[:, None, None, :]


def stretched(plain: Tensor, rope_scaling: RopeScaling) -> Tensor:
    """Llama 3.1's frequencies."""
    original = rope_scaling.original_max_position_embeddings
    low, high = original / rope_scaling.low_freq_factor, original / rope_scaling.high_freq_factor
    length = 2 * math.pi / plain
    slow = torch.where(length > low, plain / rope_scaling.factor, plain)
    share = (original / length - rope_scaling.low_freq_factor) / (
        rope_scaling.high_freq_factor - rope_scaling.low_freq_factor
    )
    blended = (1 - share) * slow / rope_scaling.factor + share * slow
    return torch.where((length >= high) & (length <= low), blended, slow)
