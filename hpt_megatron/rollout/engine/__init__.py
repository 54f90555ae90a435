"""The engine that samples: vLLM behind one role, and how it takes the trainer's weights.

Only files named `vllm_*` import vLLM. `vllm_worker.py` and what it imports run inside vLLM's worker processes.
"""
