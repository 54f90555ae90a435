"""A draw that vLLM takes back, on a host without an accelerator.

A prompt that is computed in pieces has a token drawn after each; only the last one counts. vLLM takes the others back
by the offset of the request's generator, which torch's generators on the CPU do not have: the engine would die of the
first seeded prompt that does not fit into a step. Here such a generator begins anew from its seed.

Invariant: a seeded request draws the same tokens whether its prompt is computed at once or in pieces. Not so where vLLM
runs out of cache, puts a request off that has said something, and then computes it again in pieces: its next draws
repeat the first ones.

Example: `mend()` in every worker, before its first request
"""

from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

WRAPPED = "_bookkeeping_sync"


def mend() -> None:
    """Once in each process that samples on a CPU."""
    original = getattr(GPUModelRunner, WRAPPED)
    if torch.cuda.is_available() or hasattr(original, "hpt_rewinds"):
        return

    def rewinding(self: Any, *arguments: Any, **keywords: Any) -> Any:
        batch = self.input_batch
        taken_back = np.nonzero(self.discard_request_mask.np[: batch.num_reqs])[0].tolist()
        held = {row: batch.generators.pop(row) for row in taken_back if row in batch.generators}
        for generator in held.values():
            generator.manual_seed(generator.initial_seed())
        try:
            return original(self, *arguments, **keywords)
        finally:
            batch.generators.update(held)

    rewinding.hpt_rewinds = True  # type: ignore[attr-defined]
    setattr(GPUModelRunner, WRAPPED, rewinding)
