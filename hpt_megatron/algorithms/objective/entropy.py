"""The entropy bonus: `entropy`. Stream `entropy`."""

from dataclasses import dataclass

from hpt_megatron.algorithms.objective.part import COMPONENTS, Part, View
from hpt_megatron.algorithms.objective.tally import tally
from hpt_megatron.errors import HptError


@COMPONENTS.add("entropy")
@dataclass(frozen=True, kw_only=True)
class Entropy:
    """-H with H = -sum over the vocabulary of p log p; no weight on the sampled token's log-prob.

    A positive weight raises the entropy. The gradient runs through the whole distribution: the mean of -log pi over
    own samples has the same value on average, but its expected gradient is 0, so it would be no bonus at all.
    Whether demonstrations take part is in the weights: leave them out by weight 0.
    """

    name = "entropy"
    reads = ("entropy",)

    def __call__(self, view: View) -> Part:
        """See the class."""
        if view.entropy is None:
            raise HptError("the entropy bonus needs the entropy of every token, and the view has none")
        return Part(view.weighted(-view.entropy), {"actor/entropy_loss": tally(view, view.entropy)})
