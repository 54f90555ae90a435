"""Sizes that follow from a model's shape: parameters by part, the padded vocabulary, the largest tensor.

Example: Qwen2.5-VL-7B has 8,292,166,656 parameters, 676,550,144 of them in the vision tower, and its largest
tensors are the embedding and the output matrix with 152,064 x 3,584 elements each.
"""

from hpt_megatron.config.model import ModelConfig, VisionConfig


def padded_vocab_size(vocab_size: int, multiple: int, tp: int) -> int:
    """Rows of the embedding once every tensor-parallel rank holds a multiple of `multiple`.

    Example:
        >>> padded_vocab_size(152064, 128, 8)
        152576
    """
    step = multiple * tp
    return -(-vocab_size // step) * step


def language_parameters(model: ModelConfig) -> int:
    """Elements of the language model, tied matrices counted once."""
    hidden, queries = model.hidden_size, model.num_attention_heads * model.head_dim
    keys = model.num_key_value_heads * model.head_dim
    attention = hidden * (queries + 2 * keys) + queries * hidden
    if model.attention_bias:
        attention += queries + 2 * keys
    layer = attention + 3 * hidden * model.intermediate_size + 2 * hidden
    embedding = model.vocab_size * hidden
    return model.num_hidden_layers * layer + hidden + embedding * (1 if model.tie_word_embeddings else 2)


def vision_parameters(vision: VisionConfig) -> int:
    """Elements of the vision tower and its merger."""
    hidden, ffn = vision.hidden_size, vision.intermediate_size
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    attention = (hidden + 1) * 3 * hidden + (hidden + 1) * hidden
    mlp = 2 * (hidden + 1) * ffn + (ffn + 1) * hidden
    merged = hidden * vision.spatial_merge_size**2
    merger = hidden + (merged + 1) * merged + (merged + 1) * vision.out_hidden_size
    return patch * hidden + vision.depth * (attention + mlp + 2 * hidden) + merger


def parameters(model: ModelConfig) -> int:
    """All elements of the model."""
    return language_parameters(model) + (vision_parameters(model.vision) if model.vision else 0)


def trunk_parameters(model: ModelConfig) -> int:
    """All but a matrix over the vocabulary of its own: what a model keeps whose head says numbers."""
    return parameters(model) - (0 if model.tie_word_embeddings else model.vocab_size * model.hidden_size)


def largest_tensor(model: ModelConfig) -> tuple[str, int]:
    """Name and elements of the largest single tensor, as the checkpoint stores it."""
    sizes = {
        "model.embed_tokens.weight": model.vocab_size * model.hidden_size,
        "model.layers.*.mlp.gate_proj.weight": model.intermediate_size * model.hidden_size,
        "model.layers.*.self_attn.q_proj.weight": model.num_attention_heads * model.head_dim * model.hidden_size,
    }
    if model.vision is not None:
        vision = model.vision
        merged = vision.hidden_size * vision.spatial_merge_size**2
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        sizes |= {
            "visual.patch_embed.proj.weight": patch * vision.hidden_size,
            "visual.blocks.*.attn.qkv.weight": 3 * vision.hidden_size**2,
            "visual.blocks.*.mlp.gate_proj.weight": vision.intermediate_size * vision.hidden_size,
            "visual.merger.mlp.0.weight": merged**2,
            "visual.merger.mlp.2.weight": merged * vision.out_hidden_size,
        }
    name = max(sizes, key=lambda key: sizes[key])
    return name, sizes[name]
