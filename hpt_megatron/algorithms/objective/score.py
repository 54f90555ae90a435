"""What a reward model learns: `score`. Stream `score`.

The column `value` is what the head says once it has read a token, that one included (`reads_own`); the weights stand
on the last token of each response and come from a loss over pairs (`pairwise.py`).
"""

from dataclasses import dataclass

from hpt_megatron.algorithms.objective.part import COMPONENTS, Part, View
from hpt_megatron.algorithms.objective.tally import tally


@COMPONENTS.add("score")
@dataclass(frozen=True, kw_only=True)
class Score:
    """-s; weight 1. So a weight above 0 pushes the score up, as it makes a token more likely under `sft`."""

    name = "score"
    reads = ("value",)
    reads_own = True

    def __call__(self, view: View) -> Part:
        """See the class."""
        score = view.stored["value"]
        return Part(view.weighted(-score), {"pairs/score": tally(view, score)})
