"""The role of whoever generates: token ids and images in, token ids with log-probabilities and versions out.

    done = engine.submit(Prompt(ids, images), Sampling(n=8, max_tokens=512), key="uid-7/3")
    for sampled in done.result(): sampled.ids, sampled.logp, sampled.versions, sampled.finish

Decision: everything that shapes the distribution is stated in `Sampling`, or is fixed for the whole run (the ids that
are never sampled). Nothing comes from a checkpoint's `generation_config.json` but the ids that end a response: those
files ask for a repetition penalty and a temperature near zero.

Invariants
    1. A prompt has one placeholder for each image; whoever counts tokens counts the expanded ids.
    2. `logp` is under the temperature, the cuts and the mask that sampled; of a greedy response, at temperature 1.
    3. An aborted response is whole up to where it ended, and says so.
    4. An engine that died answers with `EngineDiedError`, at once and ever after.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from hpt_megatron.config.run import RolloutConfig
from hpt_megatron.errors import HptError

Asleep = Literal["weights", "cache"]


class EngineDiedError(HptError):
    """The processes of an engine are gone; what it was asked can be asked elsewhere."""


class RequestRefusedError(HptError):
    """One request that the engine does not begin; others are not concerned."""


@dataclass(frozen=True)
class Prompt:
    """Token ids, with one placeholder for each image, and the images."""

    ids: tuple[int, ...]
    images: tuple[Any, ...] = ()

    def continued(self, ids: Sequence[int]) -> "Prompt":
        """The prompt with the start of a response behind it, from which the engine goes on."""
        return replace(self, ids=(*self.ids, *ids))


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How responses are drawn; `top_k` -1 is all tokens, `temperature` 0 is greedy."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    max_tokens: int
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    @classmethod
    def of_training(cls, rollout: RolloutConfig, n: int, max_tokens: int, seed: int | None = None) -> "Sampling":
        """What rows for training are drawn with."""
        return cls(
            n=n,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            max_tokens=max_tokens,
            seed=seed,
        )

    @classmethod
    def of_validation(cls, rollout: RolloutConfig, max_tokens: int, seed: int | None = None) -> "Sampling":
        """What validation measures with: its own number, temperature and cut, and all tokens."""
        return cls(
            n=rollout.n_val,
            temperature=rollout.val_temperature,
            top_p=rollout.val_top_p,
            max_tokens=max_tokens,
            seed=seed,
        )


@dataclass(frozen=True)
class Sampled:
    """One response: its tokens, the log-probability of each as it was sampled, and the version of the weights.

    `finish` is `stop`, `length` or `abort`.
    """

    ids: tuple[int, ...]
    logp: tuple[float, ...]
    versions: tuple[str, ...]
    finish: str


class RolloutEngine(Protocol):
    """Whoever generates. How weights come to it is `weight_sync.py:Replica`."""

    version: str
    forbidden: tuple[int, ...]
    """Ids that it never samples; the trainer leaves out the same."""

    def submit(self, prompt: Prompt, sampling: Sampling, key: str = "") -> "Future[list[Sampled]]":
        """`sampling.n` responses, in order; requests with the same key prefer the same replica."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sampled]]:
        """All of them, waited for."""

    def held(self) -> AbstractContextManager[None]:
        """With `trainer.deterministic`, what is asked inside begins together and in order when this ends."""

    def abort(self) -> None:
        """Ends everything that is being generated; each response is answered as far as it came."""

    def sleep(self) -> None:
        """Gives the device's memory back, weights and cache; nothing may be running."""

    def wake(self, what: Asleep) -> None:
        """Takes memory again: `weights` before a publish, `cache` before it generates."""

    def healthy(self) -> bool:
        """Whether it can still answer."""
