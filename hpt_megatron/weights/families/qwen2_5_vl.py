"""Qwen2.5-VL: the decoder of Qwen2.5 and a vision tower, whose tensors keep their names."""

from hpt_megatron.weights.families.decoder import decoder
from hpt_megatron.weights.families.family import Family, register

QWEN2_5_VL = register(
    Family("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", decoder(attention_bias=True), tower="visual.")
)
