"""Bytes of a node's main memory, as terms with names.

    processes      one trainer and one engine process for each device, with what they import: 350 MiB of their own each,
                   measured; files of the packages are shared and not counted
    moved out      weights, moments and float32 copies of every trained role while another one is at home; pinned, made
                   once and kept. With `trainer.optimizer_offload` the moments are there even where devices are split
    to disk        with `trainer.async_save`, a copy of weights, moments and float32 copies of every trained role
    reference      weights alone
    rows           the step's tokens with their columns, at the driver and once more on their way
    images         patches of every prompt's images in float32, the same

An engine that sleeps leaves nothing here: its weights are discarded, and publishing brings new ones.

On a host without an accelerator the devices' own memory is main memory too.
"""

from hpt_megatron.config.rules.rollout import BYTES
from hpt_megatron.config.run import RunConfig
from hpt_megatron.layout.cost import patches
from hpt_megatron.planning.devices import Asked
from hpt_megatron.planning.memory import Phase, Term, most
from hpt_megatron.planning.parameters import stages_of
from hpt_megatron.planning.roles import trainer_roles
from hpt_megatron.planning.workload import Workload

IMPORTED = 350 * 2**20
COLUMNS = 72  # bytes of a token: ids, masks, log-probs, credit, weights
COPIES = 2


def of_node(run: RunConfig, asked: Asked, work: Workload, phases: list[Phase], split: bool = False) -> list[Term]:
    """The node of the driver, which needs the most."""
    vision, element, replicas = run.model.vision, BYTES[run.trainer.dtype], run.dp * run.layout.cp
    terms = [("processes with their imports", (1 if split else 2) * IMPORTED * asked.per_node + IMPORTED)]
    for role in trainer_roles(run):
        out = copied = 0
        for stage in stages_of(run.model, run.layout, run.trainer.freeze if role.trained else (), role.vocabulary):
            state = (12 if element == 2 else 8) * stage.all.trained // replicas if role.trained else 0
            held = stage.all.held * element
            copied = max(copied, held + state)
            if split and role.trained:
                held, state = 0, state if run.trainer.optimizer_offload else 0
            out = max(out, held + state)
        if not asked.device.processes:
            terms.append((f"{role.name} moved out of {asked.per_node} devices", out * asked.per_node))
        if run.trainer.async_save and role.trained:
            terms.append((f"{role.name} on its way to disk", copied * asked.per_node))
    if asked.device.processes:
        terms.append(("processes at work", most(phases).bytes * asked.per_node))
    terms.append(("rows of a step", COPIES * COLUMNS * work.tokens))
    if vision is not None and work.images:
        channels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        pixels = work.prompts * work.images * patches(work.grid) * channels * 4
        terms.append(("images of a step", COPIES * pixels))
    return [Term(name, size) for name, size in terms if size > 0]
