"""What one process of the trainer holds, and where it is: in device memory, out of it, on disk.

    held.save(folder); held.restore(folder)
    held.begin_save(folder); ...; held.end_save()     written while the next steps are trained
    held.offload(); held.onload()                     makes room for the engine, and takes it back

Every process of a layout calls the same methods in the same order. What is computed with it is `worker.py`'s.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import HptError
from hpt_megatron.mcore.model.stage import Head
from hpt_megatron.mcore.saved import checkpoint
from hpt_megatron.mcore.saved.about import About
from hpt_megatron.mcore.saved.background import Saving
from hpt_megatron.mcore.step.offload import at_hand, move_out, take_back
from hpt_megatron.weights.carried import CARRIED, carry


class Held:
    """See the module; whoever derives from it fills it."""

    def __init__(self, run: RunConfig, head: Head) -> None:
        self.run, self.head = run, head
        self.models: list[Any] = []
        self.optimizer: Any = None
        self.frozen: set[str] = set()
        self.steps = self.skipped = 0
        self.away = ""  # what of the device memory was given up: nothing, "gradients" or "weights" and gradients
        self.saving: Saving | None = None

    def _at_home(self, but_for: str = "") -> None:
        if self.away and self.away != but_for:
            raise HptError(f"its {self.away} are moved out", mend="call onload() first")

    def _arrived(self) -> None:
        """Waits for parameters whose gathering was left to the next forward pass."""
        for model in self.models:
            if getattr(model, "ddp_config", None) is not None and model.ddp_config.overlap_param_gather:
                model.start_param_sync(force_sync=True)

    def save(self, folder: str | Path, extra: Mapping[str, Any] | None = None, last: bool = False) -> None:
        """Writes a checkpoint; the `last` one can be read under any layout, others under the same tp, pp and vpp."""
        sharding = "fully_reshardable" if last else "dp_reshardable"
        with self._to_save():
            checkpoint.save(folder, self.models, self.optimizer, self._told(extra), sharding, self._about())
        self._carry(folder)

    def begin_save(self, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
        """As `save`, but it is written while the next steps are trained; `end_save` makes it a checkpoint."""
        with self._to_save():
            self.saving = checkpoint.begin_save(folder, self.models, self.optimizer, self._told(extra), self._about())
        self._carry(folder)

    def written(self) -> bool:
        """Whether this rank has nothing left to write."""
        return self.saving is None or self.saving.written()

    def end_save(self) -> None:
        """All ranks together: what was begun is a checkpoint."""
        saving, self.saving = self.saving, None
        if saving is not None:
            saving.finish()

    @contextmanager
    def _to_save(self) -> Iterator[None]:
        self._at_home()
        self.end_save()  # one at a time
        with at_hand(self.optimizer, self.run.trainer.optimizer_offload):
            yield

    def _told(self, extra: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**(extra or {}), "steps": self.steps, "skipped": self.skipped}

    def _carry(self, folder: str | Path) -> None:
        if self.run.model.path is not None and dist.get_rank() == 0:  # so that an export needs nothing else
            carry(Path(self.run.model.path), Path(folder) / CARRIED)

    def restore(self, folder: str | Path, weights_alone: bool = False) -> dict[str, Any]:
        """Reads a checkpoint; answers what was saved beside it. From `weights_alone`, imported ones, a run begins."""
        self._at_home()
        optimizer = None if weights_alone else self.optimizer
        with at_hand(self.optimizer, self.run.trainer.optimizer_offload):
            extra = checkpoint.load(folder, self.models, optimizer, self._about())
            if weights_alone and self.optimizer is not None:
                self.optimizer.reload_model_params()
        steps, skipped = int(extra.pop("steps", 0)), int(extra.pop("skipped", 0))
        if not weights_alone:
            self.steps, self.skipped = steps, skipped
        return extra

    def _about(self) -> About:
        """What a checkpoint of this worker is of."""
        return About(self.head, self.run.model.vocab_size, tuple(self.frozen))

    def offload(self, weights: bool = True) -> None:
        """Moves gradients and moments out of device memory; weights too, unless a publish still needs them."""
        if not self.away:
            self._arrived()
        move_out(self.models, self.optimizer, weights)
        self.away = "weights" if weights else self.away or "gradients"

    def onload(self) -> None:
        """Takes back what `offload` moved out."""
        if self.away:
            take_back(self.models, None if self.run.trainer.optimizer_offload else self.optimizer)
        self.away = ""
