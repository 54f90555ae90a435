"""From a run to its engine, by `rollout.name`.

Another package adds an engine through the entry point group `hpt_megatron.engines`: a callable with the arguments of
`vllm` below, that answers something with the methods of `role.py:RolloutEngine`, and of `weight_sync.py:Replica` to
take weights.
"""

from collections.abc import Callable, Sequence
from typing import Any

from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.chat import Chat
from hpt_megatron.registry import Registry
from hpt_megatron.rollout.engine.forbidden import forbidden_ids

ENGINES: Registry[Callable[..., Any]] = Registry("rollout engine", "hpt_megatron.engines")


@ENGINES.add("vllm")
def vllm(run: RunConfig, folder: str, forbidden: Sequence[int]) -> Any:
    """The one that is built in."""
    from hpt_megatron.rollout.engine.vllm_engine import VllmEngine

    return VllmEngine(run, folder, forbidden)


def engine_of(run: RunConfig, folder: str, chat: Chat) -> Any:
    """One engine, not started. The trainer must leave out the same ids: set its `forbidden` to this engine's."""
    forbidden = forbidden_ids(chat, run.model.vocab_size)
    return ENGINES.get(run.rollout.name)(run, folder, forbidden)
