"""Qwen2.5, text alone: queries, keys and values carry a bias."""

from hpt_megatron.weights.families.decoder import decoder
from hpt_megatron.weights.families.family import Family, register

QWEN2_5 = register(Family("qwen2_5", "Qwen2ForCausalLM", decoder(attention_bias=True)))
