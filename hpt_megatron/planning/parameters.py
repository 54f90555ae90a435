"""Elements that one rank of each pipeline stage holds, counted from the weight table.

A layer is counted once and multiplied: which parameters there are and how tensor parallelism cuts them comes from
`weights/table.py` and `weights/plan/trainer.py:cuts`, how many layers a stage has from `layout/stages.py`. So a layout
costs microseconds, and thousands can be compared.

Invariants
    1. The sum over a stage is what `weights/plan/trainer.py:trainer_layout` gives its ranks.
    2. Frozen tensors are held and not trained: they have no gradient buffer and no moments.

Example:
    >>> from hpt_megatron.config.load import load
    >>> run = load(["experiment=hpt-72b"]).run
    >>> [stage.layers for stage in stages_of(run.model, run.layout)]
    [20, 20, 20, 20]
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.run import LayoutConfig
from hpt_megatron.config.shapes import Shape, shapes
from hpt_megatron.layout.stages import layers_per_stage
from hpt_megatron.weights.frozen import frozen
from hpt_megatron.weights.kinds import Entry
from hpt_megatron.weights.plan.engine import engine_layout
from hpt_megatron.weights.plan.trainer import LAYERED, cuts, stage_of_layers
from hpt_megatron.weights.table import EMBEDDING, OUTPUT, VISUAL, Table


@dataclass(frozen=True)
class Elements:
    """Elements held, and those of them that are trained."""

    held: int = 0
    trained: int = 0

    def __add__(self, other: "Elements") -> "Elements":
        return Elements(self.held + other.held, self.trained + other.trained)

    def times(self, count: int) -> "Elements":
        """So many of them."""
        return Elements(self.held * count, self.trained * count)


@dataclass(frozen=True)
class Stage:
    """What one rank of a pipeline stage holds, by part; `virtual` are the layers of each virtual stage."""

    rank: int
    virtual: tuple[int, ...]
    decoder: Elements
    embedding: Elements
    output: Elements
    vision: Elements
    first: bool
    last: bool

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return sum(self.virtual)

    @property
    def all(self) -> Elements:
        """Everything."""
        return self.decoder + self.embedding + self.output + self.vision


def stages_of(
    model: ModelConfig, layout: LayoutConfig, freeze: tuple[str, ...] = (), vocabulary: bool = True
) -> tuple[Stage, ...]:
    """The stages of a layout; without `vocabulary` the head is one number per token (a critic)."""
    return _stages(model, replace(layout, cp=1, dp=1), tuple(freeze), vocabulary)  # neither changes what a rank holds


@lru_cache(maxsize=4096)
def _stages(model: ModelConfig, layout: LayoutConfig, freeze: tuple[str, ...], vocabulary: bool) -> tuple[Stage, ...]:
    by_part = _parts(model, layout.tp, layout.vocab_multiple, freeze)
    counts = layers_per_stage(model.num_hidden_layers, layout.pp, layout.vpp)
    tied = model.tie_word_embeddings
    found = []
    for rank, virtual in enumerate(counts):
        first, last = rank == 0, rank == layout.pp - 1
        output = by_part["norm"] if last else Elements()
        if last and not vocabulary:
            output += Elements(model.hidden_size + 1, model.hidden_size + 1)
        elif last and (not tied or layout.pp > 1):
            output += by_part["embedding" if tied else "output"]
        found.append(
            Stage(
                rank=rank,
                virtual=tuple(virtual),
                decoder=_layers(by_part, model, counts, rank),
                embedding=by_part["embedding"] if first else Elements(),
                output=output,
                vision=by_part["vision"] if first else Elements(),
                first=first,
                last=last,
            )
        )
    return tuple(found)


def _layers(by_part: dict[str, Elements], model: ModelConfig, counts: list[list[int]], rank: int) -> Elements:
    """The stage's own layers; they differ only where a pattern freezes some of them."""
    if "layer 0" not in by_part:
        return by_part["layer"].times(sum(counts[rank]))
    stages = stage_of_layers(model.num_hidden_layers, len(counts), len(counts[0]))
    return sum((by_part[f"layer {layer}"] for layer, stage in enumerate(stages) if stage == rank), Elements())


@lru_cache(maxsize=256)
def _parts(model: ModelConfig, tp: int, vocab_multiple: int, freeze: tuple[str, ...]) -> dict[str, Elements]:
    """Elements of one tensor-parallel rank: one layer, embedding, output, last norm, tower."""
    table, sizes = Table.of(model, tp, vocab_multiple), shapes(model)
    tower = [name for name in sizes if name.startswith(VISUAL)]
    still = frozen(freeze, table.entries(tower), model.tie_word_embeddings)

    def part(entry: Entry) -> Elements:
        held = rank_elements(table, entry, sizes, tp)
        return Elements(held, 0 if entry.trainer in still else held)

    known = {entry.trainer for entry in table.entries()}
    layered = [entry.trainer for entry in table.family.language if LAYERED in entry.trainer]

    def layer(number: int) -> Elements:
        names = [name.replace(LAYERED, str(number)) for name in layered]
        return sum((part(table.entry(name)) for name in names if name in known), Elements())

    found = {
        "layer": layer(0),
        "embedding": part(table.entry(EMBEDDING)),
        "output": Elements() if model.tie_word_embeddings else part(table.entry(OUTPUT)),
        "norm": part(table.entry("decoder.final_layernorm.weight")),
        "vision": sum((part(table.entry(name)) for name in tower), Elements()),
    }
    if freeze:
        found |= {f"layer {number}": layer(number) for number in range(model.num_hidden_layers)}
    return found


def rank_elements(table: Table, entry: Entry, sizes: dict[str, Shape], tp: int) -> int:
    """Elements of a parameter on tensor-parallel rank 0, padding included; every rank has as many."""
    shape, axis = sizes[entry.checkpoint[0]], 1 if entry.kind == "columns" else 0
    share = cuts(entry, [sizes[name] for name in entry.checkpoint], tp, table.fusion)[0]
    return share.length * prod(size for each, size in enumerate(shape) if each != axis)


@lru_cache(maxsize=64)
def engine_elements(model: ModelConfig, tp: int, mm_encoder_tp_mode: str) -> int:
    """Elements of one rank of an engine, as vLLM's layers hold them."""
    total = 0
    for parameter in engine_layout(model, tp, 1, mm_encoder_tp_mode).parameters:
        across = prod(size for axis, size in enumerate(parameter.shape) if axis != parameter.axis)
        total += next(share.length for share in parameter.shares if 0 in share.ranks) * across
    return total
