"""Whole modules written into a vLLM model, in the form in which vLLM's loaders would leave them.

Between `start` and `finish` a module's parameters are as they are before vLLM prepares them for its kernels. Rows are
copied straight to their places, so nothing of the sender's memory is kept; then the module is prepared as after a first
load, and what comes out is copied into the tensors that the kernels hold on to. Where these are the same tensors, rows
are written into them at once.

    not sent       a module that stands still: its tensors are put back as they were
    tied           an output matrix that is the embedding's parameter. It is a module of its own, and may keep a packed
                   copy of the parameter; so it is prepared again when the embedding has been loaded
    interrupted    modules done so far are new, the others old. The next `start` to `finish` makes them whole again

The steps are those of vLLM's layer-wise reload, which is private interface of the pinned release.

Invariants
    1. A module is loaded with all its parameters or refused; rows that nothing lands on are padding, of zeros.
    2. After `finish` no tensor of the model is on the meta device.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable

import torch
from vllm.config import ModelConfig
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.model_executor.model_loader.reload.layerwise import (
    _copy_and_restore_kernel_tensors,
    _place_kernel_tensors,
    finalize_layerwise_reload,
    get_layerwise_info,
    initialize_layerwise_reload,
)
from vllm.model_executor.model_loader.reload.meta import materialize_layer

from hpt_megatron.errors import HptError
from hpt_megatron.weights.publish.receiver import Landed

UNQUANTISED = (type(None), UnquantizedLinearMethod, UnquantizedEmbeddingMethod)


class Loading:
    """New weights for one model."""

    def __init__(self, model: torch.nn.Module, config: ModelConfig, device: torch.device) -> None:
        self.model, self.config, self.device = model, config, device
        self.modules = dict(model.named_modules())
        self.tied = tied_modules(model)
        self.seconds = Counter[str]()  # of the last update: writing rows, and what vLLM makes of them
        self._loaded: set[str] = set()

    def start(self) -> None:
        """Opens the model for new weights; one that an interrupted publish left open stays so."""
        self._loaded.clear()
        self.seconds.clear()
        started = time.perf_counter()
        with torch.device(self.device):
            initialize_layerwise_reload(self.model)
        self.seconds.update(reload=time.perf_counter() - started)

    @torch.no_grad()
    def load(self, modules: Iterable[str], landed: Landed) -> None:
        """Writes modules that have arrived."""
        rows: defaultdict[str, Landed] = defaultdict(list)
        for landing, tensor in landed:
            rows[landing.parameter.rpartition(".")[0]].append((landing, tensor))
        for name in modules:
            with torch.device(self.device):
                self._one(name, rows.pop(name, []))
        if rows:
            raise HptError(f"rows came for modules that did not: {', '.join(rows)}", where="publishing")

    def _one(self, name: str, landed: Landed) -> None:
        started = time.perf_counter()
        layer = self.modules[name]
        info = get_layerwise_info(layer)
        if not info.can_load():
            raise HptError("is not open for new weights", where=name)
        in_place = _kernels_hold_what_loaders_write(layer)
        if in_place:
            _place_kernel_tensors(layer, info)
        else:
            materialize_layer(layer, info)
        opened = time.perf_counter()
        arrived = Counter[str]()
        for landing, tensor in landed:
            arrived[landing.parameter.rpartition(".")[2]] += tensor.numel()
        own = {leaf: parameter for leaf, parameter in layer._parameters.items() if parameter is not None}
        if own.keys() != arrived.keys():
            raise HptError(f"came with {sorted(arrived)} where it has {sorted(own)}", where=name)
        for leaf, parameter in own.items():
            if arrived[leaf] < parameter.numel():
                parameter.data.zero_()
        for landing, tensor in landed:
            parameter = own[landing.parameter.rpartition(".")[2]]
            there = parameter.data.narrow(landing.axis, landing.start, landing.shape[landing.axis])
            there.copy_(tensor.view(there.shape))
        written = time.perf_counter()
        _prepare(layer)
        if info.kernel_tensors is not None and not in_place:
            _copy_and_restore_kernel_tensors(layer, info)
        info.reset()
        self._loaded.add(name)
        self.seconds.update(write=written - opened, reload=opened - started + time.perf_counter() - written)

    @torch.no_grad()
    def finish(self) -> None:
        """Closes the model: what was not sent is put back."""
        started = time.perf_counter()
        with torch.device(self.device):
            for layer in self.model.modules():
                info = get_layerwise_info(layer)
                if info.can_load() and info.kernel_tensors is not None and not is_deferred_attention_layer(layer):
                    _place_kernel_tensors(layer, info)
                    info.reset()
            finalize_layerwise_reload(self.model, self.config)
            for first, others in self.tied.items():
                for other in others if first in self._loaded else ():
                    _prepare(self.modules[other])
        self.seconds.update(reload=time.perf_counter() - started)


def tied_modules(model: torch.nn.Module) -> dict[str, list[str]]:
    """The modules that hold parameters of an earlier one, by the name of that one."""
    owners: dict[int, str] = {}
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None and owners.setdefault(id(parameter), name) != name:
                found[owners[id(parameter)]].append(name)
    return dict(found)


def _kernels_hold_what_loaders_write(layer: torch.nn.Module) -> bool:
    """Whether rows can go straight to where the kernels read: no copy in between, and no memory for one.

    So it is for embeddings, norms and, on a GPU, every weight that is not quantised.
    """
    if not isinstance(getattr(layer, "quant_method", None), UNQUANTISED):
        return False
    info = get_layerwise_info(layer)
    if info.kernel_tensors is None:
        return False
    held, written = info.kernel_tensors[0], info.restore_metadata[0]
    return all(
        name not in written or (tensor.shape, tensor.dtype) == (written[name].shape, written[name].dtype)
        for name, tensor in held.items()
    )


def _prepare(layer: torch.nn.Module) -> None:
    """What follows a first load: packing for the kernels, quantisation."""
    method = getattr(layer, "quant_method", None)
    if not isinstance(method, QuantizeMethodBase):
        return
    if hasattr(layer, "_already_called_process_weights_after_loading"):
        del layer._already_called_process_weights_after_loading
    method.process_weights_after_loading(layer)
    if hasattr(layer, "update_param_tp_status"):
        layer.update_param_tp_status()
