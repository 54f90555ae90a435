"""The rollout engine: vLLM, asynchronous, real with and without a GPU.

    engine = VllmEngine(run, folder)
    engine.start()
    engine.meet(meeting)                       a session with the trainer
    with engine.paused("3"):                   nothing is generated; caches are empty
        engine.take(ALL)                       while the trainer sends
    engine.generate([prompt], sampling)        with the version that made each token

vLLM's own loop runs in a thread of this process, its engine in processes of their own. `submit` answers a future, every
other method waits, so whoever drives needs no event loop. All requests that run share one continuous batch.

`trainer.deterministic` makes a turn's batches the same every time: what is asked inside `held` begins together, in the
order in which it was asked. How requests meet in a batch changes the last bits of their numbers otherwise.

Invariants
    1. An engine whose last update did not come to its end refuses to generate, in one line, until a complete one has.
    2. The version of a token is what the engine says it was when the token was sampled.
    3. vLLM listens nowhere: it is used as a library.
    4. Asleep it generates nothing, and takes weights only with its weights awake. On a device that cannot give memory
       back, sleeping empties the caches and changes nothing else.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import HptError
from hpt_megatron.rollout.engine.role import Asleep, EngineDiedError, Prompt, RequestRefusedError, Sampled, Sampling
from hpt_megatron.rollout.engine.vllm_processes import fork_server, use_fork_server
from hpt_megatron.rollout.engine.vllm_settings import engine_settings, sampling_params, set_environment
from hpt_megatron.rollout.loop_thread import LoopThread

logger = logging.getLogger(__name__)
GRACE_S = 1.5
"""An engine of which a process died fails what it is asked before it says that it died."""


class VllmEngine:
    """One engine of `tensor_parallel_size` ranks; `forbidden` ids are never sampled (None: what stands for images)."""

    def __init__(self, run: RunConfig, folder: str, forbidden: Sequence[int] | None = None, **more: Any) -> None:
        self.run, self.folder, self.more = run, folder, more
        held_back = (run.model.image_token_id, run.model.video_token_id) if forbidden is None else forbidden
        self.forbidden = tuple(token for token in held_back if token is not None)
        self.whole = True  # False while the weights may be a mixture, or are gone
        self.awake: set[Asleep] = {"weights", "cache"}
        self.cache_tokens = 0
        self._vllm: Any = None
        self._thread: LoopThread | None = None
        self._numbers = iter(range(1 << 62))
        self._running: set[str] = set()
        self._aborts = 0

    def start(self) -> None:
        """Loads the model of the folder; its weights count as version `default`."""
        import torch

        self.on_gpu = torch.cuda.is_available()
        set_environment(self.on_gpu)
        if not self.on_gpu:
            fork_server()
        self._thread, self._order = LoopThread("vllm"), asyncio.Lock()
        self._vllm = self._thread.run(self._create())
        self.cache_tokens = int(self._engine.vllm_config.cache_config.kv_cache_size_tokens or 0)
        self.tell_cache()

    def tell_cache(self) -> None:
        """To the log: how much of what it is asked is generated at a time."""
        longest = self.run.rollout.max_model_len
        logger.info(
            "engine: cache for %d tokens, %.1f rows of the longest (%d)",
            self.cache_tokens,
            self.cache_tokens / longest,
            longest,
        )

    @property
    def _engine(self) -> Any:
        if self._vllm is None:
            raise self._died()
        return self._vllm

    async def _create(self) -> Any:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        if not self.on_gpu:
            use_fork_server()
        settings = engine_settings(self.run, self.folder, self.forbidden, self.on_gpu)
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**(settings | self.more)))

    def submit(self, prompt: Prompt, sampling: Sampling, key: str = "") -> "Future[list[Sampled]]":
        """`sampling.n` responses, in order. One engine has no use for the key."""
        self._ready()
        if self._thread is None or self._vllm is None:
            raise self._died()
        return self._thread.submit(self._one(prompt, sampling, self._aborts))

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sampled]]:
        """`sampling.n` responses to each prompt, waited for."""
        with self.held():
            waiting = [self.submit(prompt, sampling) for prompt in prompts]
        return [each.result() for each in waiting]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """With `trainer.deterministic`, whatever is asked inside begins when this ends; otherwise at once."""
        self._ready()
        if not self.run.trainer.deterministic:
            yield
            return
        self._wait(self._engine.pause_generation(mode="keep", clear_cache=False))
        try:
            yield
        finally:
            self._wait(self._let_go())

    async def _let_go(self) -> None:
        async with self._order:  # behind everything that was asked before
            await self._engine.resume_generation()

    def _ready(self) -> None:
        if not self.whole:
            what = "its weights are a mixture or gone: no update has come to its end since it lost them"
            raise HptError(what, where="engine", mend="publish everything before it generates")
        if len(self.awake) < 2:
            raise HptError("it sleeps", where="engine", mend="wake its weights and its cache before it generates")

    async def _one(self, prompt: Prompt, sampling: Sampling, aborts: int) -> list[Sampled]:
        try:
            # Requests with images are prepared in threads, and would overtake one another.
            async with self._order if self.run.trainer.deterministic else contextlib.nullcontext():
                asked = await self._ask(prompt, sampling, aborts)
            return await self._answer(*asked)
        except asyncio.CancelledError:
            if self._vllm is None:  # not the caller's wish: the engine is being ended
                raise self._died() from None
            raise

    async def _ask(self, prompt: Prompt, sampling: Sampling, aborts: int) -> tuple[str, Any]:
        from vllm.exceptions import VLLMClientError

        request: dict[str, Any] = {"prompt_token_ids": list(prompt.ids)}
        if prompt.images:
            request["multi_modal_data"] = {"image": list(prompt.images)}
        name = str(next(self._numbers))
        try:
            queue = await self._engine.add_request(name, request, sampling_params(sampling))
        except (VLLMClientError, ValueError) as error:  # what vLLM refuses to begin
            raise RequestRefusedError(f"refuses a request: {error}", where="engine") from error
        self._running.add(name)
        if self._aborts != aborts:  # it was on its way when all were aborted
            await self._engine.abort(name)
        return name, queue

    async def _answer(self, name: str, queue: Any) -> list[Sampled]:
        try:
            said = await queue.get()
            while not said.finished:
                said = await queue.get()
        except asyncio.CancelledError:
            if self._vllm is not None:
                await self._vllm.abort(name)
            raise
        except Exception as error:
            raise self._told(error) from error
        finally:
            self._running.discard(name)
            queue.close()
        return [_sampled(output) for output in sorted(said.outputs, key=lambda output: output.index)]

    def _died(self) -> EngineDiedError:
        return EngineDiedError("its processes are gone", where="engine", mend="start another; nothing it held is kept")

    def _told(self, error: Exception) -> Exception:
        """What vLLM raises, in our words where its processes are gone."""
        if isinstance(error, HptError):
            return error
        until = time.monotonic() + GRACE_S
        while self.healthy() and time.monotonic() < until:
            time.sleep(0.05)
        return error if self.healthy() else self._died()

    def abort(self) -> None:
        """Ends what is being generated; each response is answered as far as it came."""
        self._aborts += 1
        self._wait(self._engine.abort(list(self._running)))

    def healthy(self) -> bool:
        """Whether it was started and its processes are there."""
        return self._vllm is not None and not self._vllm.errored

    def sleep(self) -> None:
        """Waits for what runs, empties the caches, and gives the device's memory back where the device can."""
        if self.on_gpu:
            self._wait(self._engine.sleep(level=2, mode="wait"))
            self.whole = False  # the weights are given up: the next publish is of everything
        else:
            self._wait(self._engine.pause_generation(mode="wait", clear_cache=True))
        self.awake = set()

    def wake(self, what: Asleep) -> None:
        """Takes memory again: `weights` first, then `cache`."""
        if what == "cache" and "weights" not in self.awake:
            raise HptError("its weights sleep", where="engine", mend="wake the weights before the cache")
        if self.on_gpu:
            self._wait(self._engine.wake_up(["weights" if what == "weights" else "kv_cache"]))
        elif what == "cache":
            self._wait(self._engine.resume_generation())
        self.awake.add(what)

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
        if "weights" not in self.awake:
            raise HptError("its weights sleep", where="engine", mend="wake them before a publish")
        self._wait(self._engine.pause_generation(mode="wait", clear_cache=True))
        self.whole = False
        self._wait(self._engine.start_weight_update())
        yield
        self._wait(self._engine.finish_weight_update(weight_version=version))
        self.whole = True
        if "cache" in self.awake:
            self._wait(self._engine.resume_generation())

    def take(self, which: str) -> None:
        """Takes what the trainer sends of a plan, to its end."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        self._wait(self._engine.update_weights(WeightTransferUpdateRequest(update_info={"which": which})))

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """What each rank answers to a method of `vllm_worker.py:Extension`."""
        return list(self._wait(self._engine.collective_rpc(method, args=arguments)))

    def stop(self) -> None:
        """Ends the engine's processes and the thread; what it was still asked is answered that it died."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.run(self._ended())
            thread.close()

    def restart(self) -> None:
        """The folder's weights again, in new processes: it wants a publish before its first request."""
        self.whole = False
        self.stop()
        self._running.clear()
        self.awake = {"weights", "cache"}
        self.start()

    async def _ended(self) -> None:
        vllm, self._vllm = self._vllm, None
        if vllm is not None:
            vllm.shutdown()
            del vllm  # while everything that it needs to end is still there

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self._thread is None:
            work.close()
            raise self._died()
        try:
            return self._thread.run(work, watched=self._must_live)
        except Exception as error:
            raise self._told(error) from error

    def _must_live(self) -> None:
        """vLLM leaves whoever waits for an answer of a dead process waiting, unless a request was asked for."""
        if self._vllm is not None and self._vllm.errored:
            raise self._died()


def _sampled(output: Any) -> Sampled:
    versions = [""] * len(output.token_ids)
    for span in output.weight_versions or ():
        versions[span.start : span.end] = [span.version] * (span.end - span.start)
    logp = [step[token].logprob for step, token in zip(output.logprobs or (), output.token_ids, strict=False)]
    return Sampled(tuple(output.token_ids), tuple(logp), tuple(versions), output.finish_reason or "")
