"""Every named KL estimator as the penalty in the reward, one worked value of each.

Not covered: their gradients; in the reward there are none.
"""

import math

import pytest
import torch

from hpt_megatron.algorithms.kl_reward import kl_reward
from hpt_megatron.algorithms.objective.kl import KL_ESTIMATORS
from hpt_megatron.protocol.rows import Rows


@pytest.mark.parametrize(
    ("name", "kl"),
    [("k1", -1.0), ("k2", 0.5), ("k3", math.e - 2), ("low_var", math.e - 2), ("abs", 1.0), ("mse", 0.5)],
)
def test_every_named_estimator_can_be_the_penalty(name, kl):
    rows = Rows.from_lists({"trained": [[False, True]], "off": [[False, False]]}, score=[1.0], valid=[True])
    logp, ref_logp = torch.tensor([math.nan, -3.0]), torch.tensor([math.nan, -2.0])
    made = kl_reward(rows, logp, ref_logp, beta=0.5, estimator=KL_ESTIMATORS.get(name))
    assert made.reward.tolist() == [0.0, pytest.approx(1.0 - 0.5 * kl, abs=1e-6)]
