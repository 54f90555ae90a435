"""Keys of the group `rollout` that say what an agent may do, what it is shown, and where it searches.

They are part of `hpt_megatron/config/run.py:RolloutConfig`. A single turn reads only the first few of them.

Example: `rollout.search_on_failure=abort`
"""

from dataclasses import dataclass
from typing import Literal

from hpt_megatron.config.model import Count


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Budgets, tools, pictures, the search service, the frozen generator."""

    agent_prompt: str
    agent_driver: Literal["async", "lockstep"]
    tools: tuple[str, ...]
    final_turn: bool
    truncate_after_action: bool
    on_complete_false: Literal["terminate", "invalid"]
    max_new_tokens_per_turn: Count | None
    max_visual_tokens: int
    invalid_limit: int
    wall_time_per_traj_s: float
    images_per_search: Count
    crop_pad_px: int
    crop_repair: bool
    observation_captions: bool
    search_protocol: Literal["vrag_get", "ddai_post", "position", "search_r1", "inproc"]
    search_corpus_root: str | None
    search_topk: Count
    search_connect_timeout_s: float
    search_timeout_s: float
    search_deadline_s: float
    search_max_retries: int
    search_backoff_s: float
    search_max_workers: Count
    search_batch_size: Count
    search_batch_wait_ms: float
    search_cache_size: int
    search_health_path: str
    search_on_failure: Literal["observe", "abort"]
    search_failure_budget: float
    allow_offline_retriever: bool
    generator_url: str | None
    generator_model: str | None
    generator_max_tokens: Count
    generator_max_images: Count
    append_generator_answer: bool
