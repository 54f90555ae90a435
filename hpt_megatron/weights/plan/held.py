"""What a layout is: the parameters of a model as its ranks hold them, in coordinates of the checkpoint's tensors.

    Layout     the ranks, and the parameters in the order of the model
    Parameter  one fused parameter; cut along one axis
    Share      what some ranks hold of it, all of them the same
    Part       rows (or columns) of one tensor, which lie together inside a share

Trainer and engine are described by the same four words, so one plan leads either way, and between two trainers.
Everything that makes layouts differ (the interleaving of qkv, gate over up, padding, KV heads held twice) is in the
numbers of the parts: what is left to execute is copying boxes.

Invariants
    1. The parts of a share do not overlap, in the parameter or in a tensor; what no part covers is padding, of zeros.
    2. The shares of a layout cover every element of every tensor of its parameters.
    3. No rank is in two shares of one parameter.

Example:
    >>> Part("model.layers.0.mlp.up_proj.weight", 4, 8, 12).rows  # rows 4 to 8 of the tensor, from row 12 on here
    4
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hpt_megatron.config.shapes import Shape

Box = tuple[tuple[int, int], ...]
"""(start, stop) per axis."""


class Part(NamedTuple):
    """Rows `start` to `stop` of a tensor, lying from `at` on; along the parameter's axis."""

    tensor: str
    start: int
    stop: int
    at: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


class Share(NamedTuple):
    """What `ranks` hold of a parameter: `length` rows along its axis, padding included."""

    parts: tuple[Part, ...]
    length: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Parameter:
    """One parameter; `shape` is its tensors' own, of which the entry of `axis` is not read."""

    name: str
    axis: int
    shape: Shape
    lane: int  # the pipeline rank that holds it; parameters of different lanes can travel at the same time
    shares: tuple[Share, ...]

    @property
    def module(self) -> str:
        """The module that a weight and its bias are of."""
        return self.name.rpartition(".")[0]

    def tensors(self) -> list[str]:
        """The checkpoint's tensors that it is made of."""
        return list(dict.fromkeys(part.tensor for share in self.shares for part in share.parts))


@dataclass(frozen=True)
class Layout:
    """The parameters of a model over `ranks` ranks."""

    ranks: int
    parameters: tuple[Parameter, ...]

    def modules(self) -> Iterator[tuple[str, list[Parameter]]]:
        """Module by module, in the order of the model."""
        together: dict[str, list[Parameter]] = {}
        for parameter in self.parameters:
            together.setdefault(parameter.module, []).append(parameter)
        yield from together.items()


def box(shape: Shape, axis: int, start: int, stop: int) -> Box:
    """Part of a tensor along one axis, whole along the others."""
    return tuple((start, stop) if each == axis else (0, size) for each, size in enumerate(shape))


def window(parts: Sequence[Part], start: int, stop: int) -> tuple[Part, ...]:
    """What rows `start` to `stop` of a parameter hold; they count from 0 in the answer.

    Example:
        >>> window([Part("gate", 0, 4, 0), Part("up", 0, 4, 4)], 2, 6)
        (Part(tensor='gate', start=2, stop=4, at=0), Part(tensor='up', start=0, stop=2, at=2))
    """
    found = []
    for part in parts:
        low, high = max(part.at, start), min(part.at + part.rows, stop)
        if low < high:
            shift = part.start - part.at
            found.append(Part(part.tensor, low + shift, high + shift, low - start))
    return tuple(found)
