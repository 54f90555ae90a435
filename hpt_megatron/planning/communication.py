"""Bytes and seconds of the exchanges of a layout, on the links where megatron-core's order of ranks puts them.

Ranks count tensor parallel fastest, then context, data and pipeline parallel. So a group of tp ranks is within a node
when tp <= devices of a node, one of cp when tp x cp is, one of dp when tp x cp x dp is, and stages are neighbours at a
distance of tp x cp x dp.

    tp   of a pack and layer: forward 2 gathers and 2 reduce-scatters of the sequence, backward the same and 2 gathers
         for the gradients of weights; computing a layer again adds the forward ones
    cp   of a pack and layer: one gather of keys and values, backward one reduce-scatter; attention again, once more
    pp   of a pack and boundary: hidden states forward, their gradient back; once for each virtual stage
    dp   of an optimizer step: reduce-scatter of float32 gradients, gather of parameters

The share of each that hides behind computation (`HIDDEN`) is an assumption: nothing of tp, for it is waited for; half
of cp, where Transformer Engine passes keys in a ring, and nothing of our twin's gather; interleaved messages, which are
sent while the other virtual stage computes; most of dp with `trainer.overlap_communication`.

Example:
    >>> round(ring(8, 1_000_000))
    875000
"""

from dataclasses import dataclass

from hpt_megatron.config.rules.rollout import BYTES
from hpt_megatron.config.run import LayoutConfig, RunConfig
from hpt_megatron.planning.devices import Asked

HIDDEN = {"tp": 0.0, "cp": 0.5, "pp": 0.9, "dp": 0.8}


@dataclass(frozen=True)
class Exchange:
    """One kind of exchange of a step, of the busiest rank."""

    kind: str
    link: str
    bytes: float
    seconds: float  # on the link
    exposed: float  # of them, what computation waits for


def ring(ranks: int, size: float) -> float:
    """Bytes that a rank sends when `size` bytes are gathered or reduced over so many ranks."""
    return size * (ranks - 1) / ranks


def links(layout: LayoutConfig, dp: int, asked: Asked) -> dict[str, str]:
    """The link of each kind of group."""
    device, inside = asked.device, asked.per_node
    spans = {"tp": layout.tp, "cp": layout.tp * layout.cp, "dp": layout.tp * layout.cp * dp, "pp": asked.count}
    return {kind: device.within if span <= inside else device.between for kind, span in spans.items()}


def of_sequence(run: RunConfig, asked: Asked, tokens: float, layers: int, packs: int, train: bool) -> list[Exchange]:
    """What a rank exchanges over tp and cp for so many packs of so many tokens (on one cp rank)."""
    layout, model, device = run.layout, run.model, asked.device
    element, on = BYTES[run.trainer.dtype], links(layout, run.dp, asked)
    again = run.trainer.recompute
    found = []
    if layout.tp > 1:
        times = 4 + (6 if train else 0) + (4 if train and again == "full" else 0)
        size = times * ring(layout.tp, tokens * model.hidden_size * element) * layers * packs
        found.append(_exchange("tp", on["tp"], size, times * layers * packs, asked, HIDDEN["tp"]))
    if layout.cp > 1:
        times = 1 + (1 if train else 0) + (1 if train and again != "none" else 0)
        keys = max(1, model.num_key_value_heads // layout.tp) * model.head_dim * 2
        size = times * ring(layout.cp, tokens * layout.cp * keys * element) * layers * packs
        hidden = 0.0 if device.processes else HIDDEN["cp"]
        found.append(_exchange("cp", on["cp"], size, times * layers * packs, asked, hidden))
    return found


def of_pipeline(run: RunConfig, asked: Asked, tokens: float, packs: int, train: bool) -> list[Exchange]:
    """Messages between stages."""
    layout = run.layout
    if layout.pp == 1:
        return []
    element = BYTES[run.trainer.dtype]
    times = packs * layout.vpp * (2 if train else 1)
    size = times * tokens * run.model.hidden_size / layout.tp * element
    hidden = HIDDEN["pp"] if layout.vpp > 1 else 0.0
    return [_exchange("pp", links(layout, run.dp, asked)["pp"], size, times, asked, hidden)]


def of_gradients(run: RunConfig, asked: Asked, held: int, trained: int) -> list[Exchange]:
    """Gradients and parameters of one optimizer step over dp and cp."""
    ranks = run.dp * run.layout.cp
    if ranks == 1:
        return []
    element = BYTES[run.trainer.dtype]
    size = ring(ranks, 4.0 * trained + element * held)
    hidden = HIDDEN["dp"] if run.trainer.overlap_communication else 0.0
    return [_exchange("dp", links(run.layout, run.dp, asked)["dp"], size, 2 * ranks.bit_length(), asked, hidden)]


def _exchange(kind: str, link: str, size: float, times: int, asked: Asked, hidden: float) -> Exchange:
    seconds = size / asked.device.rate(link) + times * asked.device.launch
    return Exchange(kind, link, size, seconds, seconds * (1 - hidden))
