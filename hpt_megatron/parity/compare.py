"""Two outcomes beside each other: the largest differences, by what is compared.

    tensors     norm of the difference over the norm of the reference: sizes do not hide errors, near-zeros do not
                exaggerate them
    numbers     difference over the reference's size, and at least over 1e-3 of the largest of its kind

Where the reference's norm is 0 the difference itself is told.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hpt_megatron.parity.reference import Outcome

PARTS = {
    "visual.merger.": "vision: merger",
    "visual.": "vision: tower",
    "model.embed_tokens.": "embedding",
    "lm_head.": "output",
    "self_attn.": "language: attention",
    "mlp.": "language: MLP",
    "norm": "language: norms",
}


@dataclass(frozen=True)
class Difference:
    """The largest of its kind, and where."""

    what: str
    absolute: float
    relative: float
    where: str = ""


def part_of(name: str) -> str:
    """The part of the model that a tensor belongs to."""
    return next(part for piece, part in PARTS.items() if piece in name)


def apart(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Largest difference, and norm of the difference over the reference's norm."""
    difference = ours.double() - theirs.double()
    absolute = float(difference.abs().max()) if difference.numel() else 0.0
    size = float(theirs.double().norm())
    return absolute, float(difference.norm()) / size if size else absolute


def compare(ours: Outcome, theirs: Outcome) -> list[Difference]:
    """Logits, log-probs, entropy, each loss, and gradients by part."""
    found = [
        Difference(what, *apart(getattr(ours, what), getattr(theirs, what))) for what in ("logits", "logp", "entropy")
    ]
    largest = max(map(abs, theirs.losses.values()))
    for name, loss in theirs.losses.items():
        absolute = abs(ours.losses[name] - loss)
        found.append(Difference(f"loss: {name}", absolute, absolute / max(abs(loss), 1e-3 * largest)))
    return found + gradient_differences(ours.gradients, theirs.gradients)


def gradient_differences(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[Difference]:
    """The worst tensor of each part; a tensor that one side lacks is infinitely far away."""
    worst: dict[str, Difference] = {}
    for name in sorted({*ours, *theirs}):
        both = name in ours and name in theirs and ours[name].shape == theirs[name].shape
        absolute, relative = apart(ours[name], theirs[name]) if both else (float("inf"), float("inf"))
        part = f"gradient: {part_of(name)}"
        if part not in worst or relative > worst[part].relative:
            worst[part] = Difference(part, absolute, relative, name)
    return [worst[part] for part in sorted(worst)]
