"""What a demonstration row is trained with, by `offline_loss_type`."""

from hpt_megatron.algorithms.routing.decision import Mix
from hpt_megatron.registry import Registry

DEMONSTRATIONS: Registry[Mix] = Registry("offline_loss_type", "hpt_megatron.offline_loss_types")

for _name, _mix in {
    "sft": Mix(0.0, 0.0, 1.0),  # imitate
    "off_policy": Mix(0.0, 1.0, 0.0),  # RL on the target, as LUFFY
    "off_sft": Mix(0.0, 0.0, 1.0),  # imitate; the arm between the gates does RL on the target
    "switch_off_sft": Mix(0.0, 1.0, 1.0),  # both, each with its own coefficient
    "srft": Mix(0.0, 1.0, 1.0),  # both, weighed by the entropy of the row
    "none": Mix(0.0, 0.0, 0.0),
}.items():
    DEMONSTRATIONS.add(_name)(_mix)
