"""The one place that chooses the layers of a decoder: Transformer Engine's, or our twins.

Megatron-core's layer stays as it is; what changes are the norm, the core attention and, where Transformer Engine is
there, the linear layers. Its fused "norm and linear" is not used, so every parameter has the same name either way, and
one weight table and one checkpoint serve both.

It also refuses what megatron-core would compute wrongly without a word: with two interleaved pipeline ranks, forward
and backward messages travel between the same pair, and batched messages are then taken for one another.
"""

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from hpt_megatron.errors import UserError
from hpt_megatron.mcore import capability
from hpt_megatron.mcore.model.attention import CoreAttention
from hpt_megatron.mcore.model.norm import RMSNorm


def decoder_spec(config: TransformerConfig, vp_stage: int | None = None) -> TransformerBlockSubmodules:
    """The layers of this pipeline stage, for a `TransformerBlock`."""
    two_interleaved = config.virtual_pipeline_model_parallel_size and config.pipeline_model_parallel_size == 2
    if two_interleaved and (config.batch_p2p_comm or not config.overlap_p2p_comm):
        raise UserError(
            "an interleaved pipeline of two ranks mixes up its messages when they are batched",
            where="layout",
            mend="set overlap_p2p_comm=True and batch_p2p_comm=False",
        )
    layer = get_gpt_layer_local_spec(normalization=config.normalization, qk_layernorm=config.qk_layernorm)
    parts = layer.submodules
    attention, mlp = parts.self_attention.submodules, parts.mlp.submodules
    norm = RMSNorm
    if capability.transformer_engine().there:
        from megatron.core.extensions.transformer_engine import (
            TEColumnParallelLinear,
            TEDotProductAttention,
            TENorm,
            TERowParallelLinear,
        )

        norm, attention.core_attention = TENorm, TEDotProductAttention
        attention.linear_qkv = mlp.linear_fc1 = TEColumnParallelLinear
        attention.linear_proj = mlp.linear_fc2 = TERowParallelLinear
    else:
        attention.core_attention = CoreAttention
    parts.input_layernorm = parts.pre_mlp_layernorm = norm
    here = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * here, layer_norm=norm)
