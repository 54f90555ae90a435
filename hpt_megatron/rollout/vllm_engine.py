"""The rollout engine: vLLM, asynchronous, real with and without a GPU.

    engine = VllmEngine(run, folder)
    engine.start()
    engine.meet(meeting)                       a session with the trainer
    with engine.paused("3"):                   nothing is generated; caches are empty
        engine.take(ALL)                       while the trainer sends
    engine.generate([prompt], sampling)        with the version that made each token

vLLM's own loop runs in a thread of this process, its engine in processes of their own; the methods here wait, so that
whoever drives needs no event loop.

Invariants
    1. An engine whose last update did not come to its end refuses to generate, in one line, until a complete one has.
    2. The version of a token is what the engine says it was when the token was sampled.
    3. vLLM listens nowhere: it is used as a library.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import HptError
from hpt_megatron.rollout.publish import TORCH_NAMES

ALONE = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
"""What a host without a GPU needs; whoever sets them otherwise is obeyed."""


@dataclass(frozen=True)
class Prompt:
    """Token ids, with one placeholder for each image, and the images."""

    ids: tuple[int, ...]
    images: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Sampled:
    """One response: its tokens, the log-probability of each as it was sampled, and the version of the weights."""

    ids: tuple[int, ...]
    logp: tuple[float, ...]
    versions: tuple[str, ...]
    finish: str


class VllmEngine:
    """One engine of `tensor_parallel_size` ranks."""

    def __init__(self, run: RunConfig, folder: str, **more: Any) -> None:
        self.run, self.folder, self.more = run, folder, more
        self.whole = True  # False while the weights may be a mixture
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._numbers = iter(range(1 << 62))

    def start(self) -> None:
        """Loads the model of the folder; its weights count as version `default`."""
        for name, value in ALONE.items():
            os.environ.setdefault(name, value)
        self._thread.start()
        self._engine = self._wait(self._create())

    async def _create(self) -> Any:
        import torch
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        rollout = self.run.rollout
        settings: dict[str, Any] = {
            "model": self.folder,
            "dtype": TORCH_NAMES[self.run.trainer.dtype],
            "seed": self.run.trainer.seed,
            "tensor_parallel_size": rollout.tensor_parallel_size,
            "mm_encoder_tp_mode": rollout.mm_encoder_tp_mode,
            "max_model_len": rollout.max_model_len,
            "gpu_memory_utilization": rollout.gpu_memory_utilization,
            "enforce_eager": not torch.cuda.is_available(),
            "logprobs_mode": "processed_logprobs",  # under the temperature and the mask that sampled
            "weight_transfer_config": {"backend": "hpt"},
            "worker_extension_cls": "hpt_megatron.rollout.vllm_worker.Extension",
            "disable_log_stats": True,
            "trust_remote_code": False,
        }
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**(settings | self.more)))

    def generate(self, prompts: Sequence[Prompt], sampling: Any) -> list[list[Sampled]]:
        """`sampling.n` responses to each prompt."""
        if not self.whole:
            what = "its weights are a mixture: the last update did not come to its end"
            raise HptError(what, where="engine", mend="publish everything before it generates")
        return self._wait(self._all(prompts, sampling))

    async def _all(self, prompts: Sequence[Prompt], sampling: Any) -> list[list[Sampled]]:
        return list(await asyncio.gather(*(self._one(prompt, sampling) for prompt in prompts)))

    async def _one(self, prompt: Prompt, sampling: Any) -> list[Sampled]:
        from vllm.sampling_params import RequestOutputKind

        asked = sampling.clone()
        asked.output_kind = RequestOutputKind.FINAL_ONLY
        request: dict[str, Any] = {"prompt_token_ids": list(prompt.ids)}
        if prompt.images:
            request["multi_modal_data"] = {"image": list(prompt.images)}
        outputs: list[Any] = []
        async for said in self._engine.generate(request, asked, str(next(self._numbers))):
            outputs = said.outputs
        return [_sampled(output) for output in sorted(outputs, key=lambda output: output.index)]

    @property
    def version(self) -> str:
        """Of the weights, as the engine says."""
        return str(self._wait(self._engine.get_weight_version()))

    def meet(self, meeting: dict[str, Any]) -> None:
        """Opens a session with the trainer, which must come to meet it (`publish.py:meeting`)."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        self._wait(self._engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info=meeting)))

    @contextlib.contextmanager
    def paused(self, version: str) -> Iterator[None]:
        """Open for new weights; they are served, as `version`, if nothing fails inside.

        Requests that run are finished first. If something fails the engine stays paused and refuses to generate.
        """
        self._wait(self._engine.pause_generation(mode="wait", clear_cache=True))
        self.whole = False
        self._wait(self._engine.start_weight_update())
        yield
        self._wait(self._engine.finish_weight_update(weight_version=version))
        self.whole = True
        self._wait(self._engine.resume_generation())

    def take(self, which: str) -> None:
        """Takes what the trainer sends of a plan, to its end."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        self._wait(self._engine.update_weights(WeightTransferUpdateRequest(update_info={"which": which})))

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """What each rank answers to a method of `vllm_worker.py:Extension`."""
        return list(self._wait(self._engine.collective_rpc(method, args=arguments)))

    def stop(self) -> None:
        """Ends the engine's processes and the thread."""
        if self._thread.is_alive():
            if hasattr(self, "_engine"):
                self._wait(self._ended())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _ended(self) -> None:
        self._engine.shutdown()
        del self._engine  # while everything that it needs to end is still there

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _sampled(output: Any) -> Sampled:
    versions = [""] * len(output.token_ids)
    for span in output.weight_versions or ():
        versions[span.start : span.end] = [span.version] * (span.end - span.start)
    logp = [step[token].logprob for step, token in zip(output.logprobs or (), output.token_ids, strict=False)]
    return Sampled(tuple(output.token_ids), tuple(logp), tuple(versions), output.finish_reason or "")
