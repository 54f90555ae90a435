"""Lines of the table that several families share: a decoder with norms before attention and before a gated FFN.

What differs between families is whether queries, keys and values carry a bias; a family that differs more writes its
own lines.

Example:
    >>> len(decoder(attention_bias=True)) - len(decoder(attention_bias=False))
    1
"""

from hpt_megatron.weights.kinds import Entry

EMBEDDING, OUTPUT = "embedding.word_embeddings.weight", "output_layer.weight"
EMBED_TOKENS, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAYER, BLOCK = "decoder.layers.{layer}.", "model.layers.{layer}."
ATTENTION = tuple(f"{BLOCK}self_attn.{name}_proj." for name in "qkv")

BIAS = Entry(f"{LAYER}self_attention.linear_qkv.bias", tuple(f"{name}bias" for name in ATTENTION), "qkv")


def decoder(attention_bias: bool) -> tuple[Entry, ...]:
    """All lines of the language model, in the order of its layers."""
    return (
        Entry(EMBEDDING, (EMBED_TOKENS,), "vocabulary"),
        Entry(f"{LAYER}input_layernorm.weight", (f"{BLOCK}input_layernorm.weight",), "replicated"),
        Entry(f"{LAYER}self_attention.linear_qkv.weight", tuple(f"{name}weight" for name in ATTENTION), "qkv"),
        *((BIAS,) if attention_bias else ()),
        Entry(f"{LAYER}self_attention.linear_proj.weight", (f"{BLOCK}self_attn.o_proj.weight",), "columns"),
        Entry(f"{LAYER}pre_mlp_layernorm.weight", (f"{BLOCK}post_attention_layernorm.weight",), "replicated"),
        Entry(f"{LAYER}mlp.linear_fc1.weight", (f"{BLOCK}mlp.gate_proj.weight", f"{BLOCK}mlp.up_proj.weight"), "gated"),
        Entry(f"{LAYER}mlp.linear_fc2.weight", (f"{BLOCK}mlp.down_proj.weight",), "columns"),
        Entry("decoder.final_layernorm.weight", ("model.norm.weight",), "replicated"),
        Entry(OUTPUT, (LM_HEAD,), "vocabulary"),
    )
