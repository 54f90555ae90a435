"""Rows, tokens and images of one step: what the configuration bounds, and what has to be assumed about the data.

    rows       prompts x rollouts of a prompt. A gate that imitates takes rows away; the plan is for all of them
    lengths    on average half of the longest prompt and half of the longest response, unless told otherwise
    images     a model with a tower sees one image in each prompt, of at most half the mean prompt, unless told
    packs      rows share packs of `ppo_max_token_len_per_gpu` x cp tokens; without `use_dynamic_bsz` a pack is
               `ppo_micro_batch_size` rows. Memory is for full packs, time for packs of that number

Example:
    >>> from hpt_megatron.config.load import load
    >>> work = Workload.of(load(["experiment=hpt-7b"]).run)
    >>> work.rows, work.mean_length, work.mini_batches, work.packs, work.grid
    (1024, 4608, 2, 86, (1, 32, 32))
"""

from dataclasses import dataclass
from math import ceil, isqrt

from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import UserError
from hpt_megatron.layout.cost import Grid, language_cost, merged_tokens, patches, vision_cost
from hpt_megatron.layout.sizes import PackLimits


@dataclass(frozen=True)
class Assumed:
    """What is not in the configuration; None takes the default of the module."""

    prompt: int | None = None  # mean tokens, images included
    response: int | None = None  # mean tokens
    images: int | None = None  # of a prompt
    grid: Grid | None = None  # of an image, in patches


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One step of a run."""

    prompts: int
    rows: int
    prompt: int
    response: int
    longest: int  # tokens of the longest response
    images: int
    grid: Grid
    mini_batches: int
    packs: int  # micro-batches of a data-parallel rank in one optimizer step
    pack_tokens: int  # of a full pack, on one context-parallel rank
    rank_patches: int  # that one of the tp x cp ranks encodes of a full pack
    row_cost: float  # operations of the decoder in a forward pass
    image_cost: float

    @property
    def mean_length(self) -> int:
        """Tokens of a row."""
        return self.prompt + self.response

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return self.rows * self.mean_length

    @classmethod
    def of(cls, run: RunConfig, assumed: Assumed | None = None) -> "Workload":
        """The step that a run describes."""
        assumed = assumed or Assumed()
        data, trainer, layout, vision = run.data, run.trainer, run.layout, run.model.vision
        prompt = within("prompt", assumed.prompt, data.max_prompt_length)
        response = within("response", assumed.response, data.max_response_length)
        images = (1 if vision else 0) if assumed.images is None else assumed.images
        if images and vision is None:
            raise UserError("this model sees no images", where="--images", mend="0, or a model with a vision tower")
        grid = (1, 2, 2) if vision is None else assumed.grid or largest_grid(prompt // 2, vision.spatial_merge_size)
        if vision is not None and images * merged_tokens(vision, grid) > data.max_prompt_length:
            tokens = images * merged_tokens(vision, grid)
            mend = f"smaller or fewer images, or data.max_prompt_length={tokens}"
            raise UserError(f"{tokens} tokens of images in a prompt of {data.max_prompt_length}", mend=mend)
        prompts = data.train_batch_size
        mini = min(trainer.ppo_mini_batch_size, prompts)
        mean = prompt + response
        own = -(-mini * run.rollouts_per_prompt // run.dp)  # rows of a data-parallel rank in one optimizer step
        limits = pack_limits(run)
        each = trainer.ppo_micro_batch_size
        if trainer.use_dynamic_bsz:
            each = max(1, limits.capacity // limits.row_slots(mean))
        packs = ceil(ceil(own / each) / limits.multiple) * limits.multiple
        longest_row = data.max_prompt_length + data.max_response_length
        slots = limits.capacity if trainer.use_dynamic_bsz else limits.pack_slots(each * longest_row)
        # Rows of one prompt share its image, but a pack may hold rows of as many prompts as it has rows.
        shown = each * images * patches(grid)
        if trainer.use_dynamic_bsz and trainer.max_patches_per_gpu is not None:
            shown = min(shown, trainer.max_patches_per_gpu)
        return cls(
            prompts=prompts,
            rows=prompts * run.rollouts_per_prompt,
            prompt=prompt,
            response=response,
            longest=data.max_response_length,
            images=images,
            grid=grid,
            mini_batches=-(-prompts // mini),
            packs=packs,
            pack_tokens=slots // layout.cp,
            rank_patches=shared(shown, patches(grid), layout.tp * layout.cp) if images else 0,
            row_cost=language_cost(run.model, mean),
            image_cost=vision_cost(vision, grid) if vision else 0.0,
        )


def pack_limits(run: RunConfig) -> PackLimits:
    """What the pack plan of a run is bound by (`layout/micro_batches.py`)."""
    layout, trainer = run.layout, run.trainer
    each = 2 * layout.cp if layout.cp > 1 else 1
    return PackLimits(
        max_tokens=max(trainer.ppo_max_token_len_per_gpu * layout.cp, each * layout.tp),
        dp=run.dp,
        multiple=layout.pp if layout.vpp > 1 else 1,
        divisor=each,
        total_divisor=layout.tp * layout.cp,
    )


def shared(shown: int, image: int, ranks: int) -> int:
    """Patches of the busiest of the ranks that share the images of a pack.

    >>> shared(3 * 100, 100, 2), shared(100, 100, 8)
    (200, 100)
    """
    count = -(-shown // image)
    return min(shown, -(-count // ranks) * image)


def within(what: str, given: int | None, longest: int) -> int:
    """A mean length that a run can have: half of the longest where none is given."""
    if given is None:
        return max(1, longest // 2)
    if not 1 <= given <= longest:
        raise UserError(f"a mean of {given} tokens", where=f"--{what}", mend=f"1 to {longest}, the longest of the run")
    return given


def largest_grid(tokens: int, merge: int) -> Grid:
    """The largest image, nearly square, that merges into at most so many tokens.

    >>> largest_grid(324, 2)
    (1, 36, 36)
    """
    side = max(1, isqrt(tokens))
    return (1, side * merge, max(1, tokens // side) * merge)
