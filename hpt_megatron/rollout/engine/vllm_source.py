"""The trainer's weights as vLLM's own trainers of weight transfer take them: whole tensors by the checkpoint's names.

Publishing does not go this way: it moves rows (`weights/publish/`). This is for back-ends of vLLM that take a
`WeightSource`, such as its `nccl`, and for engines that our plan does not know.

Invariants
    1. `metadata` is of the whole model, alike on every rank; iteration covers the groups that this stage has a part of,
       in the order of `metadata`, with None for what another stage holds.
    2. Making a tensor whole is collective over tensor parallelism: all ranks of a stage iterate together.

Example:
    MegatronSource(worker.weights, shapes(run.model), torch.bfloat16, held_tensors(worker.models, worker.table))
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource


class MegatronSource(WeightSource):
    """One rank's."""

    def __init__(
        self,
        weights: Callable[[], Iterable[tuple[str, Tensor]]],
        shapes: Mapping[str, Sequence[int]],
        dtype: torch.dtype,
        held: Iterable[str],
    ) -> None:
        self._weights, self._held = weights, frozenset(held)
        self._metadata = [ParamMeta(name, dtype, tuple(shape)) for name, shape in shapes.items()]

    def metadata(self) -> list[ParamMeta]:
        """Every tensor of the checkpoint."""
        return self._metadata

    def held_names(self) -> frozenset[str]:
        """Those of this stage."""
        return self._held

    def __iter__(self) -> Iterator[tuple[str, Tensor | None]]:  # type: ignore[override]
        stream, early = iter(self._weights()), dict[str, Tensor]()
        for name in (name for group in self.groups() for name in group):
            if name not in self._held:
                yield name, None
                continue
            while name not in early:
                ready, tensor = next(stream)
                early[ready] = tensor
            yield name, early.pop(name)
