"""Saves and loads what a training run needs to go on: model, distributed optimizer, random state, a small dict.

A thin layer over megatron-core's `dist_checkpointing` (format `torch_dist`). Two ways to lay the optimizer out:

    dp_reshardable      cheap: every rank writes what it holds. Loads under any data- or context-parallel size, with the
                        same tensor- and pipeline-parallel sizes and the same bucket size.
    fully_reshardable   gathers over the data-parallel group first. Loads under any layout; meant for the end of a run.

What `hpt convert import` writes has neither an optimizer nor random states: it loads under any layout, without one.

Invariants:
    1. Under the same layout the next steps are the same bit for bit, in fresh processes too. Random states are stored
       per rank, and come back only under the layout that wrote them: elsewhere the caller's seed stands.
    2. `extra` goes through JSON, so nothing in it needs pickle.
    3. Saving changes nothing in the run, and forks nothing (`writer.py`).
    4. Loading executes nothing from the files. Three parts of the format are pickled: `common.pt`, which megatron-core
       0.16.1 reads with `weights_only`; objects inside the `.distcp` files and `.metadata`, which it would read with
       plain pickle. Those two are read by `reader.py`.
    5. `metadata.json` is written last. A folder without it is no checkpoint.

Example:
    save(folder, models, optimizer, {"step": 7})           or: saving = begin_save(...); train on; saving.finish()
    extra = load(folder, models, optimizer)
"""

import contextlib
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
from megatron.core.dist_checkpointing.mapping import CheckpointingException, ShardedTensor
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.dist_checkpointing.validation import StrictHandling
from megatron.core.utils import unwrap_model
from torch.distributed.checkpoint.api import CheckpointException

from hpt_megatron.errors import HptError, UserError
from hpt_megatron.mcore.saved.about import UNNAMED, About, compare
from hpt_megatron.mcore.saved.background import Saving
from hpt_megatron.mcore.saved.bucket_padding import joined_buckets
from hpt_megatron.weights.carried import WEIGHTS_ALONE
from hpt_megatron.weights.table import HEAD

SHARDINGS = ("dp_reshardable", "fully_reshardable")
logger = logging.getLogger(__name__)


def save(
    folder: str | Path,
    models: list[Any],
    optimizer: Any = None,
    extra: dict[str, Any] | None = None,
    sharding: str = "dp_reshardable",
    about: About = UNNAMED,
) -> None:
    """Writes a checkpoint into an empty folder; all processes call it together."""
    _save(folder, models, optimizer, extra, sharding, about, behind=False)


def begin_save(
    folder: str | Path,
    models: list[Any],
    optimizer: Any = None,
    extra: dict[str, Any] | None = None,
    about: About = UNNAMED,
) -> Saving:
    """As `save`, cheaply laid out, while training goes on; the folder is a checkpoint when this is finished."""
    return Saving(_save(folder, models, optimizer, extra, SHARDINGS[0], about, behind=True))


def _save(
    folder: str | Path,
    models: list[Any],
    optimizer: Any,
    extra: dict[str, Any] | None,
    sharding: str,
    about: About,
    *,
    behind: bool,
) -> Any:
    if sharding not in SHARDINGS:
        raise UserError(f"no such sharding: {sharding}", mend=f"one of {', '.join(SHARDINGS)}")
    for model in models:
        if getattr(model, "ddp_config", None) is not None and model.ddp_config.overlap_param_gather:
            model.start_param_sync(force_sync=True)  # the last step's parameters travel with the next forward pass
    if dist.get_rank() == 0:
        Path(folder).mkdir(parents=True, exist_ok=True)
    dist.barrier()
    _begin_moments(optimizer)
    state = _sharded_state(models, optimizer, sharding, loading=False)
    state["extra"] = json.dumps(extra or {})
    state["rng"] = {name: _row(name, value) for name, value in _random_states().items()}
    return dist_checkpointing.save(
        state,
        str(folder),
        TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1),  # one file per rank
        async_sharded_save=behind,
        content_metadata={"sharding": sharding, "layout": layout(), "about": about.written()},
    )


def is_whole(folder: str | Path) -> bool:
    """Whether a folder is a checkpoint: its last file is there."""
    return bool(dist_checkpointing.check_is_distributed_checkpoint(str(folder)))


def load(folder: str | Path, models: list[Any], optimizer: Any = None, about: About = UNNAMED) -> dict[str, Any]:
    """Reads a checkpoint into models and optimizer, fresh or used; answers `extra`."""
    if not is_whole(folder):
        raise UserError("not a complete checkpoint", where=str(folder), mend="name a folder that holds `metadata.json`")
    try:
        content = dist_checkpointing.load_content_metadata(str(folder))
    except pickle.UnpicklingError as error:
        raise UserError("its `common.pt` holds more than plain values", where=str(folder)) from error
    if not content or "about" not in content:
        raise UserError("this checkpoint was not written by us", where=str(folder))
    sharding, saved, here = content["sharding"], content["layout"], layout()
    imported = sharding == WEIGHTS_ALONE
    if imported and optimizer is not None:
        what, mend = "it holds weights alone, and no run goes on from it", "restore it with weights_alone=True"
        raise UserError(what, where=str(folder), mend=mend)
    compare(content["about"] | ({"head": about.head} if imported else {}), about, optimizer is not None, folder)
    fixed = ("tp", "pp", "vpp")
    if optimizer is not None and sharding == "dp_reshardable" and any(saved[key] != here[key] for key in fixed):
        raise UserError(
            f"its optimizer was saved under {saved} and cannot be loaded under {here}",
            where=str(folder),
            mend="load it under the same tp, pp and vpp, or save it with sharding=fully_reshardable",
        )
    state = _sharded_state(models, optimizer, SHARDINGS[0] if imported else sharding, loading=True)
    if imported:
        state = {key: {name: each for name, each in part.items() if stored(name)} for key, part in state.items()}
    same_layout = saved == here
    if same_layout:
        state["rng"] = {name: _row(name, value) for name, value in _random_states().items()}
    elif not imported:
        logger.warning("checkpoint %s was written under %s: random states stay as they are", folder, saved)
    loaded = _read(state, folder)
    for key, model in _named(models).items():
        missing = model.load_state_dict(loaded[key], strict=not imported).missing_keys
        _refuse_missing([name for name in missing if stored(name)], folder)
    if optimizer is not None:
        with torch.no_grad():  # in fp32 it writes into views of the model's parameters
            optimizer.load_state_dict(loaded["optimizer"])
    if same_layout:
        _set_random_states(loaded["rng"])
    extra: dict[str, Any] = json.loads(loaded["extra"])
    return extra


def _refuse_missing(names: list[str], folder: str | Path) -> None:
    if names:
        raise HptError(f"parameters were not filled: {names[:5]}", where=str(folder))


def stored(name: str) -> bool:
    """Whether an imported checkpoint has it: a scalar head keeps its start, and scales of fp8 are not the hub's."""
    return not name.startswith(HEAD) and "_extra_state" not in name


def _read(state: dict[str, Any], folder: str | Path) -> dict[str, Any]:
    """The filled state, or what is wrong with the folder in one line."""
    try:
        return dist_checkpointing.load(state, str(folder), strict=StrictHandling.RAISE_UNEXPECTED)
    except CheckpointingException as error:
        reason: BaseException = error
    except CheckpointException as error:  # torch's: no Exception, and it holds what went wrong on each rank
        reason = next(iter(error.failures.values()))[0]
        if not isinstance(reason, (CheckpointingException, UserError, OSError, pickle.UnpicklingError)):
            raise
    if isinstance(reason, pickle.UnpicklingError):  # torch's words would send the reader to unsafe loading
        raise UserError("an object in it holds more than plain values", where=str(folder)) from reason
    raise UserError(str(reason).splitlines()[0], where=str(folder), mend="was the same model saved?") from reason


def layout() -> dict[str, int]:
    """The sizes that decide who holds what."""
    return {
        "tp": parallel_state.get_tensor_model_parallel_world_size(),
        "pp": parallel_state.get_pipeline_model_parallel_world_size(),
        "vpp": parallel_state.get_virtual_pipeline_model_parallel_world_size() or 1,
        "cp": parallel_state.get_context_parallel_world_size(),
        "dp": parallel_state.get_data_parallel_world_size(),
    }


def _named(models: list[Any]) -> dict[str, Any]:
    """The bare models by their key in the checkpoint; several are the stages of an interleaved pipeline."""
    bare = unwrap_model(models)
    return {"model": bare[0]} if len(bare) == 1 else {f"model{i}": model for i, model in enumerate(bare)}


def _begin_moments(optimizer: Any) -> None:
    """Before a first step there are none, and megatron-core would look for them: a first step begins with zeros too."""
    for part in [] if optimizer is None else optimizer.chained_optimizers:
        if not part.is_stub_optimizer:
            part.init_state_fn(part.optimizer, part.config)


def _sharded_state(models: list[Any], optimizer: Any, sharding: str, *, loading: bool) -> dict[str, Any]:
    metadata = {
        "distrib_optim_sharding_type": sharding,
        "distrib_optim_fully_reshardable_mem_efficient": True,  # gathered on one rank, over gloo, in host memory
        "chained_optim_avoid_prefix": True,
        # Layers by name, not stacked in one tensor: that would have holes where moments of frozen layers are missing.
        "non_homogeneous_layers": True,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }
    state = {key: model.sharded_state_dict(metadata=metadata) for key, model in _named(models).items()}
    if optimizer is not None:
        of_models = state if len(models) > 1 else state["model"]
        with joined_buckets(optimizer) if sharding == "fully_reshardable" else contextlib.nullcontext():
            state["optimizer"] = optimizer.sharded_state_dict(of_models, is_loading=loading, metadata=metadata)
        if state["optimizer"].get("param_state", ...) is None:  # another rank of the group holds what was gathered
            del state["optimizer"]["param_state"]
    return state


def _random_states() -> dict[str, torch.Tensor]:
    """Every state that a draw on this rank depends on; on the CPU the first two are one."""
    tracked = tensor_parallel.get_cuda_rng_tracker().get_states()
    return {
        "cpu": torch.get_rng_state(),
        "default": torch.cuda.get_rng_state(),
        **{f"tracked.{name}": value for name, value in tracked.items()},
    }


def _set_random_states(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    torch.cuda.set_rng_state(states["default"])
    tracked = {name.removeprefix("tracked."): value for name, value in states.items() if name.startswith("tracked.")}
    tensor_parallel.get_cuda_rng_tracker().set_states(tracked)


def _row(name: str, value: torch.Tensor) -> ShardedTensor:
    """A tensor of this rank alone, as one row of a tensor of all ranks."""
    return ShardedTensor.from_rank_offsets(
        f"rng.{name}", value, (0, dist.get_rank(), dist.get_world_size()), prepend_axis_num=1
    )
