"""Small models and their layouts for the tests of plans, and what an engine's rank holds, written down naively."""

from dataclasses import replace
from functools import cache

import numpy as np

from hpt_megatron.config.load import load
from hpt_megatron.config.run import LayoutConfig
from hpt_megatron.config.shapes import shapes
from hpt_megatron.weights.plan.bucket import Bound, make_plan
from hpt_megatron.weights.plan.engine import engine_layout
from hpt_megatron.weights.plan.trainer import trainer_layout
from hpt_megatron.weights.plan.transfer import Placement

HEAD_DIM, WIDE, INNER = 8, 4, 840  # the FFN divides by every number up to 8
GIB = 1 << 30


@cache
def tiny():
    return load(["model=tiny"]).run.model


@cache
def small(heads, kv_heads, *, layers=3, vocab=100, tied=False, vision=True):
    """A model of few numbers; vocabularies are odd on purpose."""
    tower = replace(
        tiny().vision,
        depth=2,
        hidden_size=4,
        num_heads=2,
        intermediate_size=6,
        out_hidden_size=WIDE,
        patch_size=2,
        fullatt_block_indexes=(1,),
    )
    return replace(
        tiny(),
        family="qwen2_5_vl" if vision else "qwen2_5",
        hidden_size=WIDE,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=HEAD_DIM,
        intermediate_size=INNER,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        vision=tower if vision else None,
    )


def legal(heads, kv_heads):
    """Sizes up to 8 of a tensor-parallel group."""
    return [n for n in range(1, 9) if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)]


def served_by(model):
    """Sizes of an engine: vLLM's padded vocabulary must divide as well."""
    sizes = legal(model.num_attention_heads, model.num_key_value_heads)
    return [n for n in sizes if -(-model.vocab_size // 64) * 64 % n == 0]


def layout(tp=1, pp=1, vpp=1, cp=1, vocab_multiple=1):
    """A trainer's layout."""
    return LayoutConfig(tp=tp, pp=pp, vpp=vpp, cp=cp, dp=None, sequence_parallel=None, vocab_multiple=vocab_multiple)


@cache
def trainer(model, dp=1, **sizes):
    return trainer_layout(model, layout(**sizes), dp)


@cache
def engine(model, tp=1, engines=1):
    return engine_layout(model, tp, engines)


def plan_of(source, target, bucket=GIB, element=4, per_node=8, apart=0, without=()):
    return make_plan(source, target, Placement(per_node, apart), Bound(element, bucket), without)


@cache
def numbered(model):
    """The tensors of a checkpoint, in which every number stands once and none is 0."""
    found, start = {}, 1
    for name, shape in shapes(model).items():
        size = int(np.prod(shape))
        found[name] = np.arange(start, start + size, dtype=np.float32).reshape(shape)
        start += size
    assert start < 1 << 24, "float32 counts no further"
    return found


def chunk(tensor, ranks, rank, axis=0):
    return np.split(tensor, ranks, axis)[rank]


def serves(model, tensors, tp, rank):
    """What one rank of vLLM holds."""
    held = {}
    heads, kv_heads, prefix = model.num_attention_heads, model.num_key_value_heads, ""
    if model.vision is not None:
        prefix = "language_model."
    for name, tensor in tensors.items():
        if name.startswith("visual."):
            if ".up_proj." in name:
                continue
            if ".gate_proj." in name:
                tensor = np.concatenate([tensor, tensors[name.replace("gate_proj", "up_proj")]])
                name = name.replace("gate_proj", "gate_up_proj")
            held[name] = tensor
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            padded = np.zeros((-(-len(tensor) // 64) * 64, *tensor.shape[1:]), tensor.dtype)
            padded[: len(tensor)] = tensor
            held[prefix + name] = chunk(padded, tp, rank)
        elif "q_proj" in name:
            stacked = []
            for letter, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
                by_head = tensors[name.replace("q_proj", f"{letter}_proj")].reshape(count, HEAD_DIM, *tensor.shape[1:])
                mine = chunk(by_head, tp, rank) if count % tp == 0 else by_head[rank * count // tp][None]
                stacked.append(mine.reshape(-1, *tensor.shape[1:]))
            held[prefix + name.replace("q_proj", "qkv_proj")] = np.concatenate(stacked)
        elif "gate_proj" in name:
            both = [chunk(tensors[name.replace("gate_proj", each)], tp, rank) for each in ("gate_proj", "up_proj")]
            held[prefix + name.replace("gate_proj", "gate_up_proj")] = np.concatenate(both)
        elif "o_proj" in name or "down_proj" in name:
            held[prefix + name] = chunk(tensor, tp, rank, 1)
        elif "k_proj" not in name and "v_proj" not in name and "up_proj" not in name:
            held[prefix + name] = tensor
    return held
