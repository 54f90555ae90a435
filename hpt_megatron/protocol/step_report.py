"""What an optimizer step says about itself, the same on every process of the trainer."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepReport:
    """Losses by component (sums over the step), metrics (means, of what there was), and what became of the step."""

    losses: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    grad_norm: float = 0.0
    lr: float = 0.0
    skipped: str = ""

    @property
    def loss(self) -> float:
        """The whole loss."""
        return sum(self.losses.values())
