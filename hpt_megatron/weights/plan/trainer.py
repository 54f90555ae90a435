"""The trainer's layout: who holds which rows of which tensor, under tp, pp, vpp, cp and dp.

    ranks        tensor parallel fastest, then context, data and pipeline parallel, as megatron-core counts them
    first stage  the vision tower, whole on each of its ranks, and the embedding
    every stage  its layers (`layout/stages.py`), virtual stages spread over the pipeline ranks in turns
    last stage   final norm and output matrix; a tied one is a second copy of the embedding where pp is above 1

Kinds are cut as `weights/entry.py` cuts them: this file says in numbers what that one does to tensors.

Invariants
    1. Data-parallel and context-parallel copies, and tensor-parallel copies of what is not cut, are ranks of one share.
    2. Padding of the vocabulary is in no part.

Example: at tp 2 the rank 1 of a model with two KV groups holds, in `linear_qkv`, the queries, key and value of group 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.run import LayoutConfig
from hpt_megatron.config.shapes import Shape, shapes
from hpt_megatron.errors import UserError
from hpt_megatron.layout.stages import layers_per_stage
from hpt_megatron.weights.kinds import Entry, Fusion
from hpt_megatron.weights.plan.held import Layout, Parameter, Part, Share, window
from hpt_megatron.weights.table import EMBEDDING, OUTPUT, VISUAL, Table

LAYERED = "{layer}"


def trainer_layout(model: ModelConfig, layout: LayoutConfig, dp: int) -> Layout:
    """All parameters of the trainer; a scalar head is not among them, for no engine has one."""
    sizes = shapes(model)
    _check(model, layout)
    table = Table.of(model, layout.tp, layout.vocab_multiple)
    copies, parameters = layout.cp * dp, []
    for entry, stage in _placed(table, layout, list(sizes)):
        shares = []
        for cut in cuts(entry, [sizes[name] for name in entry.checkpoint], layout.tp, table.fusion):
            ranks = (rank + layout.tp * (copy + copies * stage) for copy in range(copies) for rank in cut.ranks)
            shares.append(cut._replace(ranks=tuple(ranks)))
        axis = 1 if entry.kind == "columns" else 0
        parameters.append(Parameter(entry.trainer, axis, sizes[entry.checkpoint[0]], stage, tuple(shares)))
    return Layout(layout.tp * layout.pp * copies, tuple(parameters))


def cuts(entry: Entry, sizes: Sequence[Shape], tp: int, fusion: Fusion) -> list[Share]:
    """What each tensor-parallel rank holds of a parameter, by the rules of its kind."""
    if entry.kind == "replicated":
        return [Share((Part(entry.checkpoint[0], 0, sizes[0][0], 0),), sizes[0][0], tuple(range(tp)))]
    rows = [size[1 if entry.kind == "columns" else 0] for size in sizes]
    if entry.kind == "gated":
        each = rows[0] // tp
        halves = [
            tuple(Part(name, rank * each, rank * each + each, at * each) for at, name in enumerate(entry.checkpoint))
            for rank in range(tp)
        ]
        return [Share(parts, 2 * each, (rank,)) for rank, parts in enumerate(halves)]
    whole: tuple[Part, ...] = (Part(entry.checkpoint[0], 0, rows[0], 0),)
    length = rows[0]
    if entry.kind == "qkv":
        whole, length = _interleaved(entry.checkpoint, rows, fusion), sum(rows)
    if entry.kind == "vocabulary":
        length = fusion.padded_vocabulary
    each = length // tp
    return [Share(window(whole, rank * each, rank * each + each), each, (rank,)) for rank in range(tp)]


def _interleaved(names: Sequence[str], rows: Sequence[int], fusion: Fusion) -> tuple[Part, ...]:
    """Group by group its queries, its key, its value."""
    found, at = [], 0
    for group in range(fusion.groups):
        for name, count in zip(names, rows, strict=True):
            each = count // fusion.groups
            found.append(Part(name, group * each, group * each + each, at))
            at += each
    return tuple(found)


def _placed(table: Table, layout: LayoutConfig, names: Sequence[str]) -> Iterator[tuple[Entry, int]]:
    """Every parameter in the order of the model, with its pipeline rank; a tied copy comes last."""
    model, last = table.model, layout.pp - 1
    known = {entry.trainer for entry in table.entries()}
    layered = [entry for entry in table.family.language if LAYERED in entry.trainer]
    for name in names:
        if name.startswith(VISUAL):
            yield table.entry(name), 0
    yield table.entry(EMBEDDING), 0
    for layer, stage in enumerate(stage_of_layers(model.num_hidden_layers, layout.pp, layout.vpp)):
        for entry in layered:
            name = entry.trainer.replace(LAYERED, str(layer))
            if name in known:
                yield table.entry(name), stage
    yield table.entry("decoder.final_layernorm.weight"), last
    if not model.tie_word_embeddings or layout.pp > 1:
        yield replace(table.entry(OUTPUT), trainer=OUTPUT), last


def stage_of_layers(layers: int, pp: int, vpp: int) -> list[int]:
    """The pipeline rank of each decoder layer.

    Example:
        >>> stage_of_layers(5, 2, 2)
        [0, 1, 0, 0, 1]
    """
    counts = layers_per_stage(layers, pp, vpp)
    return [rank for virtual in range(vpp) for rank in range(pp) for _ in range(counts[rank][virtual])]


def _check(model: ModelConfig, layout: LayoutConfig) -> None:
    """tp divides what it cuts. The rules of a run say it with more words; a plan can be asked for without a run."""
    tp, heads, groups = layout.tp, model.num_attention_heads, model.num_key_value_heads
    if groups % tp and tp % groups and heads % tp == 0:
        what = f"and the {groups} KV heads do not divide one another"
        raise UserError(what, where=f"layout.tp={tp}", mend="choose a divisor or a multiple")
    sizes = {"attention heads": heads, "FFN size": model.intermediate_size}
    for what, size in {**sizes, "fused rows": (heads + 2 * groups) * model.head_dim}.items():
        if size % tp:
            raise UserError(f"does not divide the {what} ({size})", where=f"layout.tp={tp}", mend="choose a divisor")
    if layout.vpp > 1 and layout.pp == 1:
        raise UserError("virtual stages need a pipeline", where=f"layout.vpp={layout.vpp}", mend="pp of 2 or more")
