"""Credit: what each token of a rollout gets for the score of its group.

Importing the package fills `ESTIMATORS`:

    group.py      grpo, grpo_split, grpo_balance, dr_grpo, rloo, opo, gpg: the score against its group
    pass_at_k.py  pass_at_k: what a rollout adds to the best of k
    remax.py      remax: the score against the greedy rollout of the prompt
    returns.py    gae, reinforce, reinforce_plus_plus, reinforce_plus_plus_baseline: along the tokens of a row
    whiten.py     mean 0 and standard deviation 1, for an estimator or after it
    prefix_weight.py  demonstration tokens weigh alpha and the others beta, after the estimator

What a row gets that has nothing to compare with (its group has at most one counted row):

    its score      grpo, grpo_split, dr_grpo, rloo, opo, gpg, pass_at_k, reinforce_plus_plus_baseline (then whitened)
    as any other   grpo_balance, reinforce, reinforce_plus_plus, gae, remax: they do not look at the group's rows

Example:
    >>> import torch
    >>> from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, CreditSettings
    >>> from hpt_megatron.protocol.rows import Rows
    >>> lists = {"trained": [[True]] * 4, "off": [[False]] * 4, "reward": [[1.0], [0.0], [0.0], [1.0]]}
    >>> rows = Rows.from_lists(lists, prompt=[0] * 4, off=[False] * 4, valid=[True] * 4)
    >>> ESTIMATORS.get("grpo")(rows, CreditSettings()).advantage.tolist()
    [0.5, -0.5, -0.5, 0.5]
"""

from hpt_megatron.algorithms.credit import group, pass_at_k, remax, returns

__all__ = ["group", "pass_at_k", "remax", "returns"]
