"""What a checkpoint is of, as far as its tensors do not say it.

Megatron-core lets the vocabulary's tensors differ in size, because their padding may; and it finds parameters of the
optimizer by their place in buffers, which depend on what is frozen. So both are written down and compared.

Decision: moments belong to what was trained. A run that freezes other parameters takes the weights alone and begins
with fresh moments; half of them would train some parameters warm and others cold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.errors import UserError


@dataclass(frozen=True)
class About:
    """The model's head, its vocabulary without padding, and the trainer's names of what is frozen."""

    head: str = "tokens"
    vocabulary: int = 0
    frozen: Sequence[str] = ()

    def written(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "frozen": sorted(self.frozen)}


UNNAMED = About()  # of bare modules, which say nothing of themselves


def compare(saved: Mapping[str, Any], here: About, with_optimizer: bool, folder: str | Path) -> None:
    """Raises in one line where a checkpoint is of something else."""
    for key, what in (("vocabulary", "a vocabulary of {}"), ("head", "a head for {}")):
        there, ours = saved[key], getattr(here, key)
        if there != ours:
            raise UserError(
                f"it holds {what.format(there)}, and this model has {what.format(ours)}",
                where=str(folder),
                mend="was the same model saved?",
            )
    apart = sorted({*saved["frozen"]} ^ {*here.frozen})
    if with_optimizer and apart:
        first, side = apart[0], "only there" if apart[0] in saved["frozen"] else "only here"
        raise UserError(
            f"its optimizer was saved with {len(saved['frozen'])} frozen parameters, and here are {len(here.frozen)}:"
            f" {first} is frozen {side}",
            where=str(folder),
            mend="use the same trainer.freeze, or restore it with weights_alone=True",
        )
