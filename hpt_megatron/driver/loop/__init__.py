"""The loops, and what they think with: no Ray, no Megatron, no vLLM in here."""
