"""Floating point operations of a forward pass, counted from the shapes: two for every multiplication with an addition.

Costs are compared with one another, by the pack plan and by the share of images, so what both sides have alike or
what is below a hundredth is left out: norms, activations, softmax, rotary angles, the embedding. The backward pass is
twice the forward and changes no comparison. The output head stands alone, because a value model has none.

Invariants
    1. Attention of the language model is causal: half of the full square.
    2. Windows are the ones that Qwen2.5-VL cuts: they tile each frame's merged grid from its upper left corner, and
       those at the right and lower borders are clipped, not padded.
    3. The grid is in patches, `(t, h, w)`; h and w are multiples of `spatial_merge_size`.

Example:
    A picture of 504 x 504 is 36 x 36 patches of 14, which merge into 18 x 18 tokens; windows of 4 x 4 merged tokens
    leave clipped ones of 2 at the borders.

    >>> from hpt_megatron.config.load import load
    >>> vision = load(["model=qwen2.5-vl-7b"]).run.model.vision
    >>> patches((1, 36, 36)), merged_tokens(vision, (1, 36, 36)), window_lengths(vision, (1, 36, 36))[:5]
    (1296, 324, [64, 64, 64, 64, 32])
"""

from hpt_megatron.config.model import ModelConfig, VisionConfig
from hpt_megatron.errors import UserError

Grid = tuple[int, int, int]
"""Frames (after temporal merging), rows and columns of patches."""


def language_cost(model: ModelConfig, length: int) -> float:
    """Of one sequence through the decoder layers, the output head left out."""
    hidden, queries = model.hidden_size, model.num_attention_heads * model.head_dim
    keys = model.num_key_value_heads * model.head_dim
    weights = hidden * (queries + 2 * keys) + queries * hidden + 3 * hidden * model.intermediate_size
    attention = 2 * length * length * queries  # scores and values, 4 each, over half of the square
    return float(model.num_hidden_layers * (2 * length * weights + attention))


def head_cost(model: ModelConfig, tokens: int) -> float:
    """Of the output head on so many tokens; only those that are trained or scored need it."""
    return float(2 * tokens * model.hidden_size * model.vocab_size)


def vision_cost(vision: VisionConfig, grid: Grid) -> float:
    """Of one image, or one video, through the tower and its merger."""
    hidden, count = vision.hidden_size, patches(grid)
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    block = 4 * hidden * hidden + 3 * hidden * vision.intermediate_size
    linear = 2 * count * (patch * hidden + vision.depth * block)
    full = sum(index in vision.fullatt_block_indexes for index in range(vision.depth))
    frames, frame = grid[0], grid[1] * grid[2]
    pairs = full * frames * frame * frame + (vision.depth - full) * _window_pairs(vision, grid)
    merged = hidden * vision.spatial_merge_size**2
    merger = 2 * merged_tokens(vision, grid) * merged * (merged + vision.out_hidden_size)
    return float(linear + 4 * hidden * pairs + merger)


def patches(grid: Grid) -> int:
    """What the tower reads: t x h x w."""
    frames, height, width = grid
    return frames * height * width


def merged_tokens(vision: VisionConfig, grid: Grid) -> int:
    """What the language model reads of it."""
    height, width = _merged(vision, grid)
    return grid[0] * height * width


def window_lengths(vision: VisionConfig, grid: Grid) -> list[int]:
    """Patches of each window, in the order in which the tower stores them."""
    down, across = _cuts(vision, grid)
    unit = vision.spatial_merge_size**2
    return [high * wide * unit for _ in range(grid[0]) for high in down for wide in across]


def _window_pairs(vision: VisionConfig, grid: Grid) -> int:
    """Sum of the squares of `window_lengths`: a window is a product of two sides, so the sum is a product of two."""
    down, across = _cuts(vision, grid)
    squares = sum(high * high for high in down) * sum(wide * wide for wide in across)
    return int(grid[0] * squares * vision.spatial_merge_size**4)


def _cuts(vision: VisionConfig, grid: Grid) -> tuple[list[int], list[int]]:
    """Sides of the windows in merged tokens, down and across; the last of each may be shorter."""
    side = vision.window_size // vision.spatial_merge_size // vision.patch_size
    if side < 1:
        smallest = vision.spatial_merge_size * vision.patch_size
        raise UserError(
            f"a window of {vision.window_size} pixels holds no merged token",
            where="model.vision.window_size",
            mend=f"{smallest} or more (spatial_merge_size x patch_size)",
        )
    height, width = _merged(vision, grid)
    return [min(side, height - at) for at in range(0, height, side)], [
        min(side, width - at) for at in range(0, width, side)
    ]


def _merged(vision: VisionConfig, grid: Grid) -> tuple[int, int]:
    size = vision.spatial_merge_size
    if min(grid) < 1 or grid[1] % size or grid[2] % size:
        raise UserError(
            f"a grid of {grid[0]} x {grid[1]} x {grid[2]} patches cannot be merged by {size} x {size}",
            mend=f"height and width in multiples of {size}, as the image processor makes them",
        )
    return grid[1] // size, grid[2] // size
