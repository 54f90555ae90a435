"""Keys of what watches a run and says, or ends it, where the numbers go wrong."""

from dataclasses import dataclass
from typing import Literal

from hpt_megatron.config.model import Count

Act = Literal["off", "warn", "stop"]


@dataclass(frozen=True, kw_only=True)
class MonitorsConfig:
    """What each does when it is met, and where it begins; means are over `window` steps."""

    window: Count
    kl: Act
    kl_times: float
    reward: Act
    reward_fall: float
    length: Act
    length_times: float
    entropy: Act
    entropy_share: float
    demo_loss: Act
    demo_loss_gap: float
    repetition: Act
    repetition_above: float
    habits: Act
    habits_times: float
    judge: Act
    judge_fall: float
    second: str | None
    others: Act
