"""ReMax (arXiv 2310.10505): the score minus that of the prompt's greedy rollout.

Rows carry the field `greedy`. A greedy row keeps its trained tokens, for its score stands there, and gets 0: it is
the baseline and is not learned from. Several of a prompt are averaged. Demonstrations never move the baseline.

What has nothing to compare with:

    prompt of demonstrations alone       their score; the rollouts were dropped, the greedy one with them (`assemble`)
    greedy rollout present, not valid    0: a failure of ours must neither stop the run nor become a baseline
    rollouts without a greedy one        refused

Example:
    >>> lists = {"trained": [[True]] * 3, "off": [[False]] * 3, "reward": [[1.0], [0.0], [0.25]]}
    >>> fields = {"prompt": [0] * 3, "off": [False] * 3, "valid": [True] * 3, "greedy": [False, False, True]}
    >>> remax(Rows.from_lists(lists, **fields), CreditSettings()).advantage.tolist()
    [0.75, -0.25, 0.0]
"""

import torch

from hpt_megatron.algorithms.credit.counted import counted_rows, credit_of_rows, scores
from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, Credit, CreditSettings, group_sums
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.rows import Rows


@ESTIMATORS.add("remax")
def remax(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads nothing."""
    rollout, score = counted_rows(rows, include_demo=False), scores(rows)
    greedy = rows.flag("greedy")
    total, judged = group_sums(rows, score, greedy & rollout)
    _, failed = group_sums(rows, score, greedy & ~rows.fields["valid"])
    bare = rollout & (judged + failed == 0)
    if bool(bare.any()):
        prompts = sorted(set(rows.fields["prompt"][bare].tolist()))
        raise UserError(
            f"remax compares with a greedy rollout, and {len(prompts)} prompts have no score of one, as {prompts[0]}",
            where="algorithm.adv_estimator",
            mend="sample one greedy rollout per prompt and mark its row `greedy`",
        )
    lost = (judged == 0) & (failed > 0)
    return credit_of_rows(rows, torch.where(greedy | lost, 0.0, score - total / judged.clamp(min=1)))
