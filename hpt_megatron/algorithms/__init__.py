"""What is learned from a group of rollouts, as functions on plain values and tensors; no process group anywhere.

    outcome.py    rollouts of a prompt -> (n, k): how many counted, how many succeeded
    routing/      (n, k) -> Mix(on, off, sft): how much to explore and how much to imitate
    assemble.py   rollouts + targets + decisions -> the rows that are trained
    credit/       scores of a group -> credit (advantage) of every token
    normalize/    mixes and denominators -> one weight per token and loss component
    objective/    log-probs + stored columns -> loss of every token, by component
    kl_control.py measured KL -> coefficient; kl_reward.py puts it into the reward
    gates.py      which groups are trained on at all; prefix.py  which rows start from their target
    shaping.py, reward_scale.py   what may be done to a score before the credit
    build.py, routing/build.py    configuration -> all of these; unified.py, explain.py  what they amount to

The trainer sees only what comes out of `normalize`, and calls what stands in `objective`.
"""
