"""The plan of a run's publishing: from its trainer to its engines, which share the devices.

Example: `plan_of_run(load_run(["experiment=hpt-7b"]))` leads from 8 trainer ranks to 4 engines of 2 ranks.
"""

from hpt_megatron.config.rules.rollout import BYTES, MIB
from hpt_megatron.config.run import RunConfig
from hpt_megatron.weights.plan.bucket import Bound, Plan, make_plan
from hpt_megatron.weights.plan.engine import engine_layout
from hpt_megatron.weights.plan.trainer import trainer_layout
from hpt_megatron.weights.plan.transfer import Placement


def plan_of_run(run: RunConfig) -> Plan:
    """Every engine of a run takes its weights; rank i of all engines together lives on device i."""
    rollout = run.rollout
    source = trainer_layout(run.model, run.layout, run.dp)
    engines = run.devices // rollout.tensor_parallel_size
    target = engine_layout(run.model, rollout.tensor_parallel_size, engines, rollout.mm_encoder_tp_mode)
    bound = Bound(BYTES[run.trainer.dtype], rollout.publish_bucket_mb * MIB)
    return make_plan(source, target, Placement(run.trainer.n_gpus_per_node), bound)
