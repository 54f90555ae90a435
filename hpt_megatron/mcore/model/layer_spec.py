"""The one place that chooses the layers of a decoder: Transformer Engine's, or our twins.

Megatron-core's local layers stay as they are (linear layers, embedding, MLP); only the norm and the core attention
are replaced, because the local ones refuse sequence and context parallelism. Checkpoints name parameters the same
either way.

It also refuses what megatron-core would compute wrongly without a word: with two interleaved pipeline ranks, forward
and backward messages travel between the same pair, and batched messages are then taken for one another.
"""

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_gpt_layer_local_spec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from hpt_megatron.errors import UserError
from hpt_megatron.mcore import capability
from hpt_megatron.mcore.model.attention import CoreAttention
from hpt_megatron.mcore.model.norm import RMSNorm


def decoder_spec(config: TransformerConfig, vp_stage: int | None = None) -> TransformerBlockSubmodules:
    """The layers of this pipeline stage, for `GPTModel(config, transformer_layer_spec=...)`."""
    two_interleaved = config.virtual_pipeline_model_parallel_size and config.pipeline_model_parallel_size == 2
    if two_interleaved and (config.batch_p2p_comm or not config.overlap_p2p_comm):
        raise UserError(
            "an interleaved pipeline of two ranks mixes up its messages when they are batched",
            where="layout",
            mend="set overlap_p2p_comm=True and batch_p2p_comm=False",
        )
    if capability.transformer_engine().there:
        return get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=vp_stage)
    layer = get_gpt_layer_local_spec(normalization=config.normalization, qk_layernorm=config.qk_layernorm)
    parts = layer.submodules
    parts.input_layernorm = parts.pre_mlp_layernorm = RMSNorm
    parts.self_attention.submodules.core_attention = CoreAttention
    here = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * here, layer_norm=RMSNorm)
