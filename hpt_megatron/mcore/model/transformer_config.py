"""From a model's shape and a layout to megatron-core's configuration of the decoder.

Decisions
    1. Losses arrive as sums of weighted tokens, so `calculate_per_token_loss` is on: the gradient is then a plain sum
       over micro-batches, context and data parallelism, and nothing is divided afterwards.
    2. Sequence parallelism is on whenever tp > 1: only then does megatron-core sum the gradients of norms and tower.
    3. Fused kernels are switched on where they can be imported; rope fusion stays off (`rotary.py`).
    4. A pipeline's stages may hold different numbers of layers; then the layout is spelled out.
"""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional

from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.run import LayoutConfig
from hpt_megatron.layout.stages import layers_per_stage, pipeline_layout
from hpt_megatron.mcore import capability

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective"},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}


def decoder_config(
    model: ModelConfig, layout: LayoutConfig, dtype: torch.dtype, recompute: str = "none"
) -> TransformerConfig:
    """The configuration of a decoder under a layout."""
    fused = capability.transformer_engine().there
    stages = layers_per_stage(model.num_hidden_layers, layout.pp, layout.vpp)
    uneven = len({layers for rank in stages for layers in rank}) > 1
    return TransformerConfig(
        num_layers=model.num_hidden_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_key_value_heads,
        kv_channels=model.head_dim,
        ffn_hidden_size=model.intermediate_size,
        normalization="RMSNorm",
        layernorm_epsilon=model.rms_norm_eps,
        gated_linear_unit=True,
        activation_func=functional.silu,
        add_bias_linear=False,
        add_qkv_bias=model.attention_bias,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
        pipeline_model_parallel_layout=(
            pipeline_layout(model.num_hidden_layers, layout.pp, layout.vpp) if uneven and layout.pp > 1 else None
        ),
        context_parallel_size=layout.cp,
        sequence_parallel=layout.tp > 1 and layout.sequence_parallel is not False,
        overlap_p2p_comm=layout.vpp > 1,
        batch_p2p_comm=layout.vpp == 1,
        pipeline_dtype=dtype,
        params_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        perform_initialization=False,
        use_cpu_initialization=not torch.cuda.is_available(),
        calculate_per_token_loss=True,
        apply_rope_fusion=False,
        bias_activation_fusion=fused,
        gradient_accumulation_fusion=capability.fused_weight_gradient().there,
        persist_layer_norm=False,
        **RECOMPUTE[recompute],
    )
