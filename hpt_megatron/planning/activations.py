"""What one pack needs of a device while it is computed: kept for the backward pass, and beside it at the worst moment.

Sizes are per token of the pack that a context-parallel rank has, in elements of the run's precision unless said; h
hidden, q queries, k keys (as many values), f inner size, d channels of a head. Divided by tp, where sequence
parallelism cuts them, all but the rotary angles and what the head reads.

    a layer keeps          fused kernels                        our twins
      two norms            2 x (input + output)                 2 x (input + normed + output)
      attention            q + 2k as computed, q + k rotated, 4d angles, q answered; without recomputation q once more
      MLP                  2f + f                               5f: both halves, silu, the linear half again, product
    recompute=full         h alone; one layer at a time is computed again
    beside a layer         the largest of: gradients of the halves, or of a matrix
    the head               logits of 1,024 tokens, two or three times; the gradient of the output matrix in float32
    the tower              transformers' modules, not fused: norms in float32, five tensors of attention, four of MLP

Invariants
    1. The twins' numbers are those of the tensors that are alive in our own modules on the CPU, counted by torch
       (`benchmarks/planner.py`); the fused ones leave out what Transformer Engine's kernels do not keep.
    2. Pipelines keep as many packs as the schedule has on its way; the head works on one.
"""

from dataclasses import dataclass

from hpt_megatron.config.model import ModelConfig, VisionConfig
from hpt_megatron.config.run import LayoutConfig
from hpt_megatron.layout.sizes import LOGITS_CHUNK


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What sizes of activations depend on besides the model."""

    layout: LayoutConfig
    element: int  # bytes of a number
    fused: bool
    recompute: str
    tokens: int  # of a pack on one context-parallel rank
    patches: int = 0  # that one rank encodes of a pack
    packs: int = 1  # micro-batches of a data-parallel rank
    entropy: bool = True  # asked of the head in training


def attention_kept(model: ModelConfig, setting: Setting) -> int:
    """Elements per token that attention keeps, but for the angles."""
    queries, keys = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    again = queries if setting.recompute != "selective" else 0
    return queries + 2 * keys + queries + keys + queries + again


def layer_kept(model: ModelConfig, setting: Setting, recompute: str | None = None) -> int:
    """Bytes that one layer keeps of a pack."""
    tp, size = setting.layout.tp, setting.tokens * setting.element
    if (recompute or setting.recompute) == "full":
        return model.hidden_size * size // tp
    norms = (4 if setting.fused else 6) * model.hidden_size
    inner = (3 if setting.fused else 5) * model.intermediate_size
    return (norms + attention_kept(model, setting) + inner) * size // tp + 4 * model.head_dim * size


def layer_beside(model: ModelConfig, setting: Setting) -> int:
    """The most that the backward pass of one layer needs beyond what is kept."""
    tp, size = setting.layout.tp, setting.tokens * setting.element
    hidden, inner = model.hidden_size, model.intermediate_size
    matrix = hidden * inner * setting.element // tp
    halves = (2 * inner // tp + 2 * hidden) * size
    backward = max(halves, (inner // tp + 2 * hidden) * size + matrix)
    if setting.recompute != "full":
        return backward
    once = layer_kept(model, setting, "none")
    return backward + once - layer_kept(model, setting)


def layer_forward(model: ModelConfig, setting: Setting) -> int:
    """One layer's pass when nothing is kept: the MLP is the widest place."""
    inner = (3 if setting.fused else 5) * model.intermediate_size // setting.layout.tp
    return (inner + 5 * model.hidden_size) * setting.tokens * setting.element


def head_kept(model: ModelConfig, setting: Setting) -> int:
    """The last norm, and the scored tokens, which every tensor-parallel rank has whole."""
    norm = (1 if setting.fused else 2) * model.hidden_size // setting.layout.tp
    return (norm + model.hidden_size) * setting.tokens * setting.element


def logits(model: ModelConfig, rows: int, setting: Setting, backward: bool) -> int:
    """Logits of a chunk as often as they exist at once; `rows` of the output matrix are on this rank."""
    chunk = min(LOGITS_CHUNK, setting.tokens)
    several = (
        setting.tokens > LOGITS_CHUNK
    )  # the last chunk's gradient is still there when the next one's logits are made
    if setting.element == 4:
        copies = 4 * ((2 if setting.entropy else 1) + several) if backward else 4
    elif backward:
        copies = (8 if setting.entropy else 6) + 2 * several
    else:
        copies = 6
    return chunk * rows * copies


def head_matrix(rows: int, hidden: int, element: int) -> int:
    """The gradient of the output matrix: summed in float32, and in bf16 one chunk's product beside it."""
    return rows * hidden * (4 if element == 4 else 6)


def head_forward(model: ModelConfig, rows: int, setting: Setting) -> int:
    """The head in a pass without gradients."""
    return logits(model, rows, setting, backward=False) + 2 * model.hidden_size * setting.tokens * setting.element


def in_flight(layout: LayoutConfig, rank: int, packs: int, layers: int) -> int:
    """Layers of this stage times packs that are kept at once, by the schedule.

    1F1B has pp - rank packs on their way; the interleaved one 2 (pp - rank - 1) + (vpp - 1) pp + 1 virtual stages.

    >>> from hpt_megatron.config.load import load
    >>> layout = load(["layout=tp8-pp4"]).run.layout
    >>> [in_flight(layout, rank, 16, 20) for rank in range(4)]
    [80, 60, 40, 20]
    """
    pp, vpp = layout.pp, layout.vpp
    if vpp == 1:
        return min(packs, pp - rank) * layers
    chunks = min(packs * vpp, 2 * (pp - rank - 1) + (vpp - 1) * pp + 1)
    return -(-chunks * layers // vpp)


def packs_in_flight(layout: LayoutConfig, rank: int, packs: int) -> int:
    """Packs whose first virtual stage on this rank is on its way."""
    if layout.vpp == 1:
        return min(packs, layout.pp - rank)
    return min(packs, 2 * layout.pp)


def tower_kept(vision: VisionConfig, setting: Setting) -> int:
    """Bytes that the tower keeps of this rank's patches."""
    wide, inner, element = vision.hidden_size, vision.intermediate_size, setting.element
    if setting.recompute == "full":
        return setting.patches * vision.depth * wide * element
    return setting.patches * vision.depth * tower_block(wide, inner, element)


def tower_block(wide: int, inner: int, element: int) -> int:
    """Bytes per patch of one block: two norms (input in float32, cast, output), attention, MLP.

    >>> tower_block(64, 128, 4) // 4, tower_block(1280, 3420, 2)
    (1216, 60640)
    """
    norm = wide * (4 + 2 * element)
    return 2 * norm + (5 * wide + 4 * inner) * element


def tower_beside(vision: VisionConfig, setting: Setting) -> int:
    """One block at work: of its backward pass, and with recompute=full its own activations again."""
    wide, inner, element = vision.hidden_size, vision.intermediate_size, setting.element
    again = tower_block(wide, inner, element) if setting.recompute == "full" else 0
    return setting.patches * (again + (2 * inner + 2 * wide) * element)
