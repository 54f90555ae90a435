"""What runs inside vLLM's worker processes: the receiving side of publishing, by vLLM's weight-transfer interface.

vLLM imports this module in every worker (`worker_extension_cls`), which registers the back-end; its own sequence of
`init_weight_transfer_engine`, `start_weight_update`, `update_weights`, `finish_weight_update` then drives it.

Invariants
    1. The first meeting records what this rank's loaders do, and refuses a plan that says otherwise.
    2. An update that fails leaves the session closed and the model open; the next complete update closes it.
    3. Digests are of what the kernels compute with, not of what was received.

Example: `AsyncEngineArgs(..., weight_transfer_config={"backend": BACKEND}, worker_extension_cls=EXTENSION)`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer import base
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from hpt_megatron.errors import HptError
from hpt_megatron.rollout.engine.vllm_baking import differences, record
from hpt_megatron.rollout.engine.vllm_loading import Loading, tied_modules
from hpt_megatron.rollout.engine.vllm_rewind import mend
from hpt_megatron.weights.plan.parcels import Crate, from_plain
from hpt_megatron.weights.plan.publish import ALL
from hpt_megatron.weights.publish.digests import digest, part_name
from hpt_megatron.weights.publish.receiver import Receiver
from hpt_megatron.weights.publish.session import Session

BACKEND = "hpt"
EXTENSION = "hpt_megatron.rollout.engine.vllm_worker.Extension"
SHOWN = 5
CHUNK = 1024


@dataclass
class Meeting(base.WeightTransferInitInfo):
    """What an engine must know to take weights. Of `by_rank`, each rank reads its own."""

    session: dict[str, Any]
    first_rank: int  # of this engine, among all receivers
    dtype: str
    shapes: dict[str, list[int]]
    by_rank: list[dict[str, Any]]  # held: [name, axis, parts]; crates: by plan


@dataclass
class Update(base.WeightTransferUpdateInfo):
    """Which plan comes."""

    which: str


class PlannedTransfer(base.WeightTransferEngine[Meeting, Update]):
    """One rank's receiving side."""

    init_info_cls, update_info_cls = Meeting, Update
    supports_draft_weight_update = False

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.loading = Loading(self.model, self.model_config, self.device)
        self.receiver: Receiver | None = None
        self.recorded: dict[str, Any] | None = None

    def init_transfer_engine(self, init_info: Meeting) -> None:
        """Meets the senders of a session."""
        self.shutdown()
        own = init_info.by_rank[self.parallel_config.rank]
        dtype = getattr(torch, init_info.dtype)
        if self.model_config.dtype != dtype:
            what = f"the engine holds {self.model_config.dtype} and the trainer sends {dtype}"
            raise HptError(what, mend="start both with the same dtype")
        if self.recorded is None:
            self.recorded = record(self.model, init_info.shapes, dtype, self.device)
        wrong = differences(own["held"], self.recorded)
        if wrong:
            more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            raise HptError(f"vLLM's loaders and the plan disagree: {'; '.join(wrong[:SHOWN])}{more}")
        crates = {which: from_plain(told) for which, told in own["crates"].items()}
        short = unfilled(own["held"], crates[ALL])
        if short:
            raise HptError(f"the plan leaves rows unwritten: {', '.join(short[:SHOWN])}")
        rank = init_info.first_rank + self.parallel_config.rank
        self.receiver = Receiver(Session(**init_info.session), rank, crates, dtype)

    def start_weight_update(self) -> None:
        """Opens the model."""
        self.loading.start()

    def receive_weights(self, update_info: Update) -> None:
        """Takes a plan's crates and writes each as it comes."""
        if self.receiver is None:
            raise HptError("no session is open", where="publishing")
        try:
            for modules, landed in self.receiver.receive(update_info.which):
                self.loading.load(modules, landed)
        except BaseException:
            self.shutdown()
            raise

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """One complete pass."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def finish_weight_update(self) -> None:
        """Closes the model."""
        self.loading.finish()

    def shutdown(self) -> None:
        """Leaves the session; the engine goes on serving what it has."""
        if self.receiver is not None:
            self.receiver.close()
        self.receiver = None


mend()


class Extension:
    """Methods that every worker of ours has beside vLLM's own."""

    def hpt_digests(self, by_rank: Sequence[Sequence[tuple[str, int, Sequence[Any]]]]) -> dict[str, str]:
        """SHA-256 of every part of a tensor that this rank holds, by `part_name`."""
        found = {}
        model = self.model_runner.get_model()  # type: ignore[attr-defined]
        modules, tied = dict(model.named_modules()), tied_modules(model)
        for name, axis, parts in by_rank[self.parallel_config.rank]:  # type: ignore[attr-defined]
            module, _, leaf = name.rpartition(".")
            for each in (module, *tied.get(module, ())):
                values = as_loaded(modules[each], leaf)
                for tensor, start, stop, at in parts:
                    told = digest(values.narrow(axis, at, stop - start))
                    if found.setdefault(part_name(tensor, start, stop), told) != told:
                        found[part_name(tensor, start, stop)] = f"differs in {each}"
        return found

    def hpt_counted(self) -> dict[int, int]:
        """Bytes that this rank has taken in its session, by sender."""
        receiver = self.weight_transfer_engine.receiver  # type: ignore[attr-defined]
        return dict(receiver.counted) if receiver is not None else {}

    def hpt_seconds(self) -> dict[str, float]:
        """Of the last update on this rank: `write` rows to their places, and vLLM's own `reload` of the modules."""
        return dict(self.weight_transfer_engine.loading.seconds)  # type: ignore[attr-defined]


@torch.no_grad()
def as_loaded(layer: torch.nn.Module, leaf: str) -> torch.Tensor:
    """A parameter in the form of its checkpoint, read from what the kernels compute with.

    On the CPU vLLM packs a linear weight for its kernels and may keep nothing else; multiplied with the identity, the
    packed one gives its rows back exactly.
    """
    parameter = getattr(layer, leaf).data
    packed = getattr(layer, "cpu_linear", None)
    if packed is None or leaf != "weight":
        return parameter
    if parameter.numel() and not isinstance(layer, VocabParallelEmbedding):
        return parameter  # a linear layer keeps its weight only where nothing was packed
    rows, columns = layerwise_shape(layer, leaf)
    found = torch.empty(rows, columns, dtype=parameter.dtype)
    for start in range(0, columns, CHUNK):
        some = torch.eye(columns, dtype=parameter.dtype)[start : start + CHUNK]
        found[:, start : start + CHUNK] = packed(some, parameter, None).t()
    if parameter.numel() and not torch.equal(parameter + 0.0, found):
        raise HptError("is not what its packed copy holds", where=f"{type(layer).__name__}.{leaf}")
    return found


def unfilled(held: Sequence[tuple[str, int, Sequence[Any]]], crates: Sequence[Crate]) -> list[str]:
    """Parameters of which a plan brings fewer or more rows than this rank holds."""
    rows = Counter[str]()
    for landing in (landing for crate in crates for taken in crate.taken for landing in taken.landings):
        rows[landing.parameter] += landing.shape[landing.axis]
    return [name for name, _, parts in held if rows[name] != sum(stop - start for _, start, stop, _ in parts)]


def layerwise_shape(layer: torch.nn.Module, leaf: str) -> tuple[int, ...]:
    """The shape with which a parameter was created; packing leaves none."""
    return tuple(get_layerwise_info(layer).restore_metadata[0][leaf].shape)


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, PlannedTransfer)
