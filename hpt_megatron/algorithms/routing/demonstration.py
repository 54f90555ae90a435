"""What a demonstration row is trained with, by `offline_loss_type`."""

from hpt_megatron.algorithms.routing.decision import IMITATE, OFF_POLICY, Mix

DEMONSTRATIONS = {
    "sft": IMITATE,
    "off_policy": OFF_POLICY,  # RL on the target, as LUFFY
    "off_sft": IMITATE,  # the arm between the gates does RL on the target
    "switch_off_sft": Mix(0.0, 1.0, 1.0),  # both, each with its own coefficient
    "srft": Mix(0.0, 1.0, 1.0),  # both, weighed by the entropy of the row
    "none": Mix(0.0, 0.0, 0.0),
}
