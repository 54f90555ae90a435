"""One rank of an engine: its weights, a step at work, and the cache of keys and values in what is left of its share.

vLLM takes `rollout.gpu_memory_utilization` of a device. Weights are those that publishing brings
(`weights/plan/engine.py`); at work it computes at most 8,192 tokens at a time and the logits of 256 sequences.

Example:
    >>> from hpt_megatron.config.load import load
    >>> model = load(["model=qwen2.5-vl-7b"]).run.model
    >>> cache_per_token(model, tp=1, element=2), cache_per_token(model, tp=8, element=2)
    (57344, 14336)
"""

from dataclasses import dataclass

from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.rules.rollout import BYTES
from hpt_megatron.config.run import RunConfig
from hpt_megatron.planning.devices import Device
from hpt_megatron.planning.parameters import engine_elements

MOST_SEQUENCES = 256  # that are sampled at a time, vLLM's `max_num_seqs`
ENGINE_BATCH = 8192  # tokens of one step of the engine, vLLM's `max_num_batched_tokens` for serving


def cache_per_token(model: ModelConfig, tp: int, element: int) -> int:
    """Bytes of keys and values of one token on one rank of an engine."""
    heads = max(1, model.num_key_value_heads // tp)
    return 2 * model.num_hidden_layers * heads * model.head_dim * element


@dataclass(frozen=True)
class Engine:
    """One rank of an engine: what it holds and how much it can sample at a time."""

    weights: int
    working: int
    cache: int
    per_token: int
    longest: int

    @property
    def cached_tokens(self) -> int:
        """Tokens that fit into the cache."""
        return max(0, self.cache) // self.per_token

    @property
    def sequences(self) -> int:
        """Sequences of the greatest length that fit."""
        return self.cached_tokens // self.longest


def engine_of(run: RunConfig, device: Device) -> Engine:
    """The engine's share of a device: weights, a step's activations, and the cache in what is left."""
    rollout, model, element = run.rollout, run.model, BYTES[run.trainer.dtype]
    tp = rollout.tensor_parallel_size
    held = engine_elements(model, tp, "data") * element
    tokens = min(ENGINE_BATCH, rollout.max_model_len * 8)
    wide = 3 * model.intermediate_size // tp + 4 * model.hidden_size
    sampled = (
        MOST_SEQUENCES * (-(-model.vocab_size // tp)) * 4 * 2
    )  # logits of the sequences that are sampled, float32, twice
    working = tokens * wide * element + sampled
    share = int(rollout.gpu_memory_utilization * device.memory)
    return Engine(
        weights=held,
        working=working,
        cache=share - held - working - device.runtime,
        per_token=cache_per_token(model, tp, element),
        longest=rollout.max_model_len,
    )
