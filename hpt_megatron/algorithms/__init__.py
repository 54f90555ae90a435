"""What is learned from a group of rollouts, as functions on plain values and tensors; no process group anywhere.

    outcome.py    rollouts of a prompt -> (n, k): how many counted, how many succeeded
    routing/      (n, k) -> Mix(on, off, sft): how much to explore and how much to imitate
    assemble.py   rollouts + targets + decisions -> the rows that are trained
    credit/       scores of a group -> credit (advantage) of every token
    normalize/    mixes and denominators -> one weight per token and loss component
    objective/    log-probs + stored columns -> loss of every token, by component
    kl_control.py measured KL -> coefficient
    gates.py, shaping.py, reward_scale.py   what may stand before the credit

The trainer sees only what comes out of `normalize`, and calls what stands in `objective`.
"""
