"""Loss components: each turns log-probs and stored columns into a loss per token.

    part.py        what a component sees and answers        ratio.py       ratios that stay finite, also of rows
    policy.py      none, clip, dual_clip                    tally.py       metrics as (sum, count)
    gspo.py        gspo                                     correction.py  engine against trainer: TIS, MIS
    cispo.py       cispo                                    reshape.py     the shapes of off_policy
    sft.py         sft                                      off_policy.py  off_policy
    srft.py        srft_sft, srft_rl                        entropy.py     entropy
    kl.py          kl, and its estimators                   value.py       value
    pairwise.py    losses of several rows as weights of sft preference.py  dpo, ipo, simpo, orpo, kto, imitate,
    score.py       score, of a reward model                                bradley_terry

The sources' `offline_loss_type` picks which components run; how strongly is in the weights of their streams:

    sft              policy + sft                           switch_off_sft   policy + off_policy + sft
    off_policy       policy + off_policy                    srft             srft_rl + off_policy + srft_sft
    off_sft          as switch_off_sft; each demonstration has a weight in one of the two streams

Invariants
    1. Importing this package registers every component.
    2. Log-probs of tokens with a weight are finite, down to -10000 and 1000 away from one another; credit is finite.
       Then loss and gradient are finite in float32 as well: what could overflow is held, and says so.
    3. What is summed over a row is detached. So the gradient of a token's loss touches its own log-prob alone, and
       context parallelism needs no collective in the backward pass.
    4. Settings that a component has, it reads.
"""

from hpt_megatron.algorithms.objective import (
    cispo,
    entropy,
    gspo,
    kl,
    off_policy,
    policy,
    preference,
    score,
    sft,
    srft,
    value,
)

__all__ = ["cispo", "entropy", "gspo", "kl", "off_policy", "policy", "preference", "score", "sft", "srft", "value"]
