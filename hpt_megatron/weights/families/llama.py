"""Llama 3.1: no biases."""

from hpt_megatron.weights.families.decoder import decoder
from hpt_megatron.weights.families.family import Family, register

LLAMA = register(Family("llama3_1", "LlamaForCausalLM", decoder(attention_bias=False)))
