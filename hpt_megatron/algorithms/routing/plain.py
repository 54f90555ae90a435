"""`no`: pure RL, or the mixing baseline in which a demonstration stands in the group from the start.

With `n_prefix = 0` no target is ever read. With `n_prefix = 1` one of the n rows of a prompt is its demonstration, as
LUFFY and SRFT train; it stays in the group whatever the rollouts achieve, trained as `offline_loss_type` says.
"""

from dataclasses import dataclass

from hpt_megatron.algorithms.routing.decision import EXPLORE, OFF_POLICY, Decision, Mix, Outcome, Stateless


@dataclass(frozen=True)
class Plain(Stateless):
    """The same decision for every prompt."""

    n_prefix: int = 0
    demonstration: Mix = OFF_POLICY

    def decide(self, outcome: Outcome) -> Decision:
        """Explore, with the demonstration beside it where the baseline has one and the prompt has a target."""
        if self.n_prefix == 0 or not outcome.has_target:
            return Decision(EXPLORE)
        return Decision(Mix(1.0, self.demonstration.off, self.demonstration.sft), demo=True, arm="blend")
