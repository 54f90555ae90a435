"""Every tensor of a model's checkpoint with its shape, from the sizes in its configuration; names as the hub has them.

Example:
    >>> from hpt_megatron.config.load import load
    >>> shapes(load(["model=qwen2.5-vl-7b"]).run.model)["model.layers.0.self_attn.k_proj.weight"]
    (512, 3584)
"""

from hpt_megatron.config.model import ModelConfig, VisionConfig

Shape = tuple[int, ...]


def vision_shapes(vision: VisionConfig) -> dict[str, Shape]:
    """The tensors of the vision tower."""
    wide, inner = vision.hidden_size, vision.intermediate_size
    merged = wide * vision.spatial_merge_size**2
    patch = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    shapes: dict[str, Shape] = {"visual.patch_embed.proj.weight": (wide, *patch)}
    for layer in range(vision.depth):
        block = f"visual.blocks.{layer}"
        shapes |= {f"{block}.norm1.weight": (wide,), f"{block}.norm2.weight": (wide,)}
        shapes |= linear(f"{block}.attn.qkv", 3 * wide, wide) | linear(f"{block}.attn.proj", wide, wide)
        shapes |= linear(f"{block}.mlp.gate_proj", inner, wide) | linear(f"{block}.mlp.up_proj", inner, wide)
        shapes |= linear(f"{block}.mlp.down_proj", wide, inner)
    shapes["visual.merger.ln_q.weight"] = (wide,)
    return (
        shapes
        | linear("visual.merger.mlp.0", merged, merged)
        | linear("visual.merger.mlp.2", vision.out_hidden_size, merged)
    )


def language_shapes(model: ModelConfig) -> dict[str, Shape]:
    """The tensors of the language model."""
    wide, inner = model.hidden_size, model.intermediate_size
    queries, shared = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (model.vocab_size, wide)}
    for layer in range(model.num_hidden_layers):
        block = f"model.layers.{layer}"
        shapes |= {f"{block}.input_layernorm.weight": (wide,), f"{block}.post_attention_layernorm.weight": (wide,)}
        attention = linear(f"{block}.self_attn.q_proj", queries, wide)
        attention |= linear(f"{block}.self_attn.k_proj", shared, wide) | linear(
            f"{block}.self_attn.v_proj", shared, wide
        )
        shapes |= {
            name: shape for name, shape in attention.items() if model.attention_bias or not name.endswith("bias")
        }
        shapes[f"{block}.self_attn.o_proj.weight"] = (wide, queries)
        shapes |= {f"{block}.mlp.gate_proj.weight": (inner, wide), f"{block}.mlp.up_proj.weight": (inner, wide)}
        shapes[f"{block}.mlp.down_proj.weight"] = (wide, inner)
    shapes["model.norm.weight"] = (wide,)
    return shapes if model.tie_word_embeddings else shapes | {"lm_head.weight": (model.vocab_size, wide)}


def linear(name: str, rows: int, columns: int) -> dict[str, Shape]:
    """A linear layer with a bias."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def shapes(model: ModelConfig) -> dict[str, Shape]:
    """All tensors of the model, by name."""
    return language_shapes(model) | (vision_shapes(model.vision) if model.vision else {})
