"""Reads the pickled parts of megatron-core's checkpoints without running what a file says.

Two parts are read by plain pickle otherwise: `.metadata`, and objects inside the `.distcp` files (the optimizer's
parameter groups, say). The first is read by `weights/execute/description.py`; here the second, with torch's
`weights_only`.
"""

import io

import torch
from megatron.core.dist_checkpointing.strategies.torch import MCoreLoadPlanner
from torch.distributed.checkpoint._nested_dict import set_element
from torch.distributed.checkpoint.planner import ReadItem


class LoadPlanner(MCoreLoadPlanner):
    """Megatron-core's planner, reading objects as torch reads weights."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        name = read_item.dest_index.fqn
        set_element(self.original_state_dict, self.mappings[name], torch.load(value, weights_only=True))
