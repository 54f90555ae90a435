"""The engine's layout in vLLM's terms: what each tensor-parallel rank of an engine holds, and under which name.

    qkv_proj       queries over keys over values of the rank's heads; with more ranks than KV heads, a KV head is held
                   by tp / KV heads neighbouring ranks
    gate_up_proj   gate over up
    o_proj, down_proj   cut along the columns
    embed_tokens, lm_head   rows of a vocabulary padded to a multiple of 64; a tied lm_head is embed_tokens itself
    visual.*       gate over up there too. With `mm_encoder_tp_mode=data` whole on every rank; with `weights` cut as the
                   language model is, its qkv, which is one tensor, by heads within each third

It is written down here from vLLM's layers (`QKVParallelLinear`, `VocabParallelEmbedding`); an engine holds it against
what its own loaders do (`rollout/engine/vllm_baking.py`).

Invariants
    1. Engines are copies: rank t of every engine is in the same share.
    2. A size that vLLM would refuse is refused here, in one line.

Example: at tp 4 with two KV heads, ranks 0 and 1 hold KV head 0, and ranks 2 and 3 hold KV head 1.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.shapes import Shape, shapes
from hpt_megatron.errors import UserError
from hpt_megatron.weights.plan.held import Layout, Parameter, Part, Share
from hpt_megatron.weights.table import BLOCK, EMBED_TOKENS, LM_HEAD, VISUAL

PADDED_TO = 64
WHERE = "rollout.tensor_parallel_size"
Cut = Literal["whole", "stacked", "qkv", "thirds", "columns", "vocabulary"]


class Held(NamedTuple):
    """A parameter of the engine, the checkpoint's tensors in it, in their order, and how they are cut."""

    name: str
    tensors: tuple[str, ...]
    cut: Cut


ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkv")
IN_LAYER = (
    Held("input_layernorm.weight", ("input_layernorm.weight",), "whole"),
    Held("self_attn.qkv_proj.weight", tuple(f"{name}.weight" for name in ATTENTION), "qkv"),
    Held("self_attn.qkv_proj.bias", tuple(f"{name}.bias" for name in ATTENTION), "qkv"),
    Held("self_attn.o_proj.weight", ("self_attn.o_proj.weight",), "columns"),
    Held("post_attention_layernorm.weight", ("post_attention_layernorm.weight",), "whole"),
    Held("mlp.gate_up_proj.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), "stacked"),
    Held("mlp.down_proj.weight", ("mlp.down_proj.weight",), "columns"),
)


def engine_layout(model: ModelConfig, tp: int, engines: int = 1, mm_encoder_tp_mode: str = "data") -> Layout:
    """All parameters of `engines` engines of `tp` ranks each; rank t of engine e is rank e * tp + t."""
    cut_tower = mm_encoder_tp_mode == "weights" and tp > 1
    _check(model, tp, engines, cut_tower)
    sizes = shapes(model)
    parameters = []
    for held in _all(model, sizes, cut_tower):
        shape = sizes[held.tensors[0]]
        axis = 1 if held.cut == "columns" else 0
        rows = [sizes[name][axis] for name in held.tensors]
        ranks = range(1) if held.cut == "whole" else range(tp)
        shares = []
        for rank in ranks:
            parts, length = _parts(held, rows, rank, tp, model.num_key_value_heads)
            inside = range(tp) if held.cut == "whole" else (rank,)
            shares.append(
                Share(parts, length, tuple(engine * tp + each for engine in range(engines) for each in inside))
            )
        parameters.append(Parameter(held.name, axis, shape, 0, tuple(shares)))
    return Layout(tp * engines, tuple(parameters))


def _parts(held: Held, rows: Sequence[int], rank: int, tp: int, kv_heads: int) -> tuple[tuple[Part, ...], int]:
    """What a rank holds, one tensor over the other, and how many rows that makes with padding."""
    if held.cut == "vocabulary":
        each = -(-rows[0] // PADDED_TO) * PADDED_TO // tp
        start, stop = rank * each, min(rank * each + each, rows[0])
        return ((Part(held.tensors[0], start, stop, 0),) if start < stop else ()), each
    parts, at = [], 0
    if held.cut == "thirds":
        each = rows[0] // 3 // tp
        starts = (third * rows[0] // 3 + rank * each for third in range(3))
        return tuple(
            Part(held.tensors[0], start, start + each, third * each) for third, start in enumerate(starts)
        ), 3 * each
    for number, (name, count) in enumerate(zip(held.tensors, rows, strict=True)):
        ranks = 1 if held.cut == "whole" else tp
        mine = rank
        if held.cut == "qkv" and number > 0 and tp > kv_heads:
            ranks, mine = kv_heads, rank // (tp // kv_heads)
        each = count // ranks
        parts.append(Part(name, mine * each, mine * each + each, at))
        at += each
    return tuple(parts), at


def _all(model: ModelConfig, sizes: dict[str, Shape], cut_tower: bool) -> Iterator[Held]:
    """Every parameter of an engine, in the order of the model."""
    wrapped = "language_model." if model.vision is not None else ""
    for name in sizes:
        if name.startswith(VISUAL) and ".gate_proj." in name:
            both = (name, name.replace("gate_proj", "up_proj"))
            yield Held(name.replace("gate_proj", "gate_up_proj"), both, "stacked" if cut_tower else "whole")
        elif name.startswith(VISUAL) and ".up_proj." not in name:
            yield Held(name, (name,), _of_tower(name) if cut_tower else "whole")
    yield Held(wrapped + EMBED_TOKENS, (EMBED_TOKENS,), "vocabulary")
    for layer in range(model.num_hidden_layers):
        block = BLOCK.format(layer=layer)
        for held in IN_LAYER:
            tensors = tuple(block + name for name in held.tensors)
            if tensors[0] in sizes:
                yield Held(wrapped + block + held.name, tensors, held.cut)
    yield Held(f"{wrapped}model.norm.weight", ("model.norm.weight",), "whole")
    if not model.tie_word_embeddings:
        yield Held(wrapped + LM_HEAD, (LM_HEAD,), "vocabulary")


def _of_tower(name: str) -> Cut:
    """How a tower that is cut holds one of its tensors."""
    if ".attn.qkv." in name:
        return "thirds"
    if ".merger.mlp.0." in name:
        return "stacked"
    closes = (".attn.proj.weight", ".mlp.down_proj.weight", ".merger.mlp.2.weight")
    return "columns" if name.endswith(closes) else "whole"


def _check(model: ModelConfig, tp: int, engines: int, cut_tower: bool) -> None:
    """What vLLM's layers would refuse when the engine starts."""
    if cut_tower and model.vision is not None:
        for what, size in (("heads", model.vision.num_heads), ("FFN size", model.vision.intermediate_size)):
            if size % tp:
                told = f"would cut the vision tower's {size} {what} into {tp} parts"
                mend = "data (each rank takes whole images)"
                raise UserError(told, where="rollout.mm_encoder_tp_mode=weights", mend=mend)
    if tp < 1 or engines < 1:
        raise UserError(f"{engines} engines of {tp} ranks are no engines", where=WHERE, mend="1 or more of each")
    padded = -(-model.vocab_size // PADDED_TO) * PADDED_TO
    kv_heads = model.num_key_value_heads
    sizes = {"attention heads": model.num_attention_heads, "FFN size": model.intermediate_size, "padded rows": padded}
    if kv_heads % tp and tp % kv_heads and model.num_attention_heads % tp == 0:
        what = f"and the {kv_heads} KV heads do not divide one another"
        raise UserError(what, where=f"{WHERE}={tp}", mend="choose a divisor or a multiple")
    for what, size in sizes.items():
        if size % tp:
            raise UserError(f"does not divide the {what} ({size})", where=f"{WHERE}={tp}", mend="choose a divisor")
