"""Imitation: `sft`. Stream `sft`."""

from dataclasses import dataclass

from hpt_megatron.algorithms.objective.part import COMPONENTS, Part, View
from hpt_megatron.algorithms.objective.tally import tally


@COMPONENTS.add("sft")
@dataclass(frozen=True, kw_only=True)
class Sft:
    """-log pi; weight 1.

    Which tokens count is in the weights, token by token: where a rollout goes on from part of a demonstration, only
    the demonstration's tokens are imitated and the others stay with RL.
    """

    name = "sft"
    reads = ()

    def __call__(self, view: View) -> Part:
        """See the class."""
        loss = -view.logp
        return Part(view.weighted(loss), {"actor/sft_loss": tally(view, loss)})
