"""The ids that are never sampled, inside the engine: their logits are -inf before anything else looks at them.

Decision: one list for the whole engine and the whole run, not one per request. The trainer's log-probabilities leave
out the same ids, so that both divide by the same sum; a model that writes `<|image_pad|>` into a response otherwise
breaks the training step with one image feature too few.

The list travels in vLLM's `additional_config`, because a processor is built inside the engine's own processes.
"""

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from hpt_megatron.rollout.engine.vllm_settings import FORBIDDEN


class Forbidden(LogitsProcessor):
    """Sets some columns to -inf, for every request."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        told: dict[str, Any] = dict(vllm_config.additional_config or {})
        self.ids = torch.tensor(told.get(FORBIDDEN, ()), dtype=torch.int64, device=device)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """In place."""
        return logits.index_fill_(1, self.ids, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        """A greedy request must not choose one of them either."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """All requests are alike."""
