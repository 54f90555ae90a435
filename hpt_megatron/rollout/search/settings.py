"""How the agent reaches its search service.

Example: Retriever.of(run.rollout)
"""

from dataclasses import dataclass
from typing import Literal

from hpt_megatron.config.run import RolloutConfig

Protocol = Literal["vrag_get", "ddai_post", "position", "search_r1", "inproc"]


@dataclass(frozen=True, kw_only=True)
class Retriever:
    """`inproc` needs no address: it opens the index of `corpus_root` in this process."""

    url: str | None = None
    protocol: Protocol = "vrag_get"
    corpus_root: str = "."
    topk: int = 10
    connect_timeout_s: float = 2.0
    read_timeout_s: float = 15.0
    total_deadline_s: float = 40.0
    max_retries: int = 3
    backoff_base_s: float = 0.5
    max_concurrency: int = 64
    batch_size: int = 64
    batch_wait_ms: float = 20.0
    cache_size: int = 10_000
    health_path: str = "/health"
    failure_budget: float = 0.2
    breaker_failures: int = 8
    cool_down_s: float = 10.0
    allow_offline: bool = False

    @classmethod
    def of(cls, rollout: RolloutConfig) -> "Retriever":
        """As a run says."""
        return cls(
            url=rollout.search_url,
            protocol=rollout.search_protocol,
            corpus_root=rollout.search_corpus_root or ".",
            topk=rollout.search_topk,
            connect_timeout_s=rollout.search_connect_timeout_s,
            read_timeout_s=rollout.search_timeout_s,
            total_deadline_s=rollout.search_deadline_s,
            max_retries=rollout.search_max_retries,
            backoff_base_s=rollout.search_backoff_s,
            max_concurrency=rollout.search_max_workers,
            batch_size=rollout.search_batch_size,
            batch_wait_ms=rollout.search_batch_wait_ms,
            cache_size=rollout.search_cache_size,
            health_path=rollout.search_health_path,
            failure_budget=rollout.search_failure_budget,
            allow_offline=rollout.allow_offline_retriever,
        )
