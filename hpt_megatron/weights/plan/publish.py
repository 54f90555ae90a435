"""The plans of a run's publishing: from its trainer to its engines, which share the devices.

    all       every parameter: for an engine that has nothing yet, or that was interrupted
    trained   without the modules that `trainer.freeze` lets stand still; the same as `all` where nothing is frozen

Example: `plan_of_run(load_run(["experiment=hpt-7b"]))` leads from 8 trainer ranks to 4 engines of 2 ranks.
"""

from hpt_megatron.config.rules.rollout import BYTES, MIB
from hpt_megatron.config.run import RunConfig
from hpt_megatron.config.shapes import shapes
from hpt_megatron.weights.frozen import frozen
from hpt_megatron.weights.plan.bucket import Bound, Plan, make_plan
from hpt_megatron.weights.plan.engine import engine_layout
from hpt_megatron.weights.plan.trainer import trainer_layout
from hpt_megatron.weights.plan.transfer import Placement
from hpt_megatron.weights.table import VISUAL, Table

ALL, TRAINED = "all", "trained"


def plan_of_run(run: RunConfig) -> Plan:
    """Everything to every engine of a run; rank i of all engines together lives on device i."""
    return plans_of_run(run, run.devices // run.rollout.tensor_parallel_size)[ALL]


def plans_of_run(run: RunConfig, engines: int, apart: int = 0) -> dict[str, Plan]:
    """The plans for so many engines at once; `apart` is their first device, where they do not share the trainer's."""
    rollout = run.rollout
    source = trainer_layout(run.model, run.layout, run.dp)
    target = engine_layout(run.model, rollout.tensor_parallel_size, engines, rollout.mm_encoder_tp_mode)
    bound = Bound(BYTES[run.trainer.dtype], rollout.publish_bucket_mb * MIB)
    placement = Placement(run.trainer.n_gpus_per_node, apart)
    plans = {ALL: make_plan(source, target, placement, bound)}
    still = standing(run)
    plans[TRAINED] = make_plan(source, target, placement, bound, still) if still else plans[ALL]
    return plans


def standing(run: RunConfig) -> set[str]:
    """The checkpoint's tensors that are not trained."""
    model, layout = run.model, run.layout
    if not run.trainer.freeze:
        return set()
    tower = [name for name in shapes(model) if name.startswith(VISUAL)]
    entries = Table.of(model, layout.tp, layout.vocab_multiple).entries(tower)
    names = frozen(run.trainer.freeze, entries, model.tie_word_embeddings)
    return {tensor for entry in entries if entry.trainer in names for tensor in entry.checkpoint}
