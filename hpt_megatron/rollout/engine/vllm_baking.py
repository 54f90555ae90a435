"""What vLLM's own loaders do with a checkpoint, recorded once per engine and held against the plan.

vLLM's `load_weights` is driven with tensors that hold no numbers. Each slice that a loader takes of one, and the place
that it copies the slice to, are geometry: start, stop, offset. So a recording says for every parameter of this rank
which rows of which tensor lie where, whatever the layout, without a weight being read.

The tensors and the wrappers around loaders are those of vLLM's `sharded_rdt` back-end. They are private interface of
the pinned release; `setup.py` says so, and `tests/engines` fails when they change.

Invariants
    1. The model is as it was before, also when recording fails.
    2. `differences` is empty, or the engine takes no weights.

Example: at tp 2 the second rank's `qkv_proj` takes rows 64 to 128 of q, at 0, then its rows of k and v.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from vllm.distributed.weight_transfer.sharded_rdt_engine import ShardedRDTWeightTransferEngine as Recording
from vllm.distributed.weight_transfer.sharded_rdt_fake import BakeSink, FakeRDTTensor
from vllm.model_executor.model_loader.reload.layerwise import initialize_layerwise_reload


class Took(NamedTuple):
    """A loader copied a box of a tensor to a box of a parameter; (start, stop) per axis."""

    tensor: str
    source: tuple[tuple[int, int], ...]
    target: tuple[tuple[int, int], ...]


Part = tuple[str, int, int, int]
"""tensor, start, stop, at: as in a plan."""


def record(
    model: torch.nn.Module, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, device: torch.device
) -> dict[str, list[Took]]:
    """By parameter, what the loaders take of tensors of these names and shapes."""
    sink = BakeSink()
    try:
        with torch.device(device):
            initialize_layerwise_reload(model)
            Recording._install_recording_stamps(None, model, sink)
            fakes = (
                (name, FakeRDTTensor(name, torch.Size(shape), dtype, device, sink=sink))
                for name, shape in shapes.items()
            )
            model.load_weights(fakes)
            return _by_parameter(model, sink, shapes)
    finally:
        Recording._restore_after_dry_run(None, model)


def _by_parameter(model: torch.nn.Module, sink: BakeSink, shapes: Mapping[str, Sequence[int]]) -> dict[str, list[Took]]:
    names = {id(module): name for name, module in model.named_modules()}
    found: defaultdict[str, list[Took]] = defaultdict(list)
    for layer, copies in sink.copies_by_layer.items():
        for copy in copies:
            tensor, operations = copy.src
            taken = torch.empty(tuple(shapes[tensor]), device="meta")
            for name, arguments, keywords in operations:
                taken = getattr(taken, name)(*arguments, **dict(keywords))
            source = _box(shapes[tensor], taken.storage_offset(), taken.shape)
            target = _box(getattr(layer, copy.param_name).shape, copy.offset, copy.shape)
            found[f"{names[id(layer)]}.{copy.param_name}"].append(Took(tensor, source, target))
    return dict(found)


def _box(shape: Sequence[int], offset: int, size: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The box of so many elements per axis that begins at an offset of a contiguous tensor."""
    if prod(size) == prod(shape):
        return tuple((0, whole) for whole in shape)
    starts = []
    for axis in range(len(shape)):
        below = prod(shape[axis + 1 :])
        starts.append(offset // below)
        offset %= below
    return tuple((start, start + length) for start, length in zip(starts, size, strict=True))


def differences(held: Sequence[tuple[str, int, Sequence[Part]]], recorded: Mapping[str, Sequence[Took]]) -> list[str]:
    """What a plan says of this rank (name, axis, parts) and its loaders do otherwise."""
    known = {name for name, _, _ in held}
    found = [f"{name} is loaded, and the plan does not know it" for name in sorted(recorded.keys() - known)]
    for name, axis, parts in held:
        does = merged([_part(took, axis) for took in recorded.get(name, ())])
        if does != merged(parts):
            found.append(f"{name}: planned {merged(parts)}, loaded {does}")
    return found


def _part(took: Took, axis: int) -> Part:
    start, stop = took.source[axis] if len(took.source) > axis else (0, 0)
    return (took.tensor, start, stop, took.target[axis][0])


def merged(parts: Iterable[Any]) -> list[Part]:
    """Parts in the order of their places, those that go on from one another as one.

    Example:
        >>> merged([("qkv", 4, 8, 4), ("qkv", 0, 4, 0), ("other", 0, 2, 8)])
        [('qkv', 0, 8, 0), ('other', 0, 2, 8)]
    """
    found: list[Part] = []
    for tensor, start, stop, at in sorted(map(tuple, parts), key=lambda part: part[3]):
        if found and found[-1][0] == tensor and found[-1][2] == start and found[-1][3] + start - found[-1][1] == at:
            found[-1] = (tensor, found[-1][1], stop, found[-1][3])
        else:
            found.append((tensor, start, stop, at))
    return found
