"""Random rows to compare on: text alone, one image, several of different sizes, an image that two rows show.

Every token gets random columns and weights, so that all components take part; the same seed gives the same rows.
"""

import torch
from torch import Tensor

from hpt_megatron.algorithms.objective import cispo, entropy, gspo, kl, policy, sft
from hpt_megatron.algorithms.objective.part import Component
from hpt_megatron.config.model import ModelConfig
from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows

COLUMNS = ("old_logp", "ref_logp", "rollout_logp", "credit")
STREAMS = ("rl", "sft", "entropy", "kl")


def components(policy_loss: str = "gspo") -> list[Component]:
    """Losses that need log-probs, entropy, stored columns and sums over rows."""
    policies: dict[str, Component] = {
        "gspo": gspo.Gspo(clip_low=0.5, clip_high=0.5),
        "clip": policy.Clip(),
        "cispo": cispo.Cispo(),
    }
    return [policies[policy_loss], sft.Sft(), entropy.Entropy(), kl.Kl(estimator="k3")]


def random_batch(model: ModelConfig, seed: int = 0, rows: int = 7, longest: int = 24) -> Batch:
    """Rows of different lengths; for a model with a tower, every second one shows images."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    images = _images(model, generator)
    merge = model.vision.spatial_merge_size if model.vision else 1
    tokens = [int(grid.prod()) // merge**2 for grid in images.grids]
    ids, shown = [], []
    for number in range(rows):
        # None, one, two, none, the same one again, ...: the last pattern makes two rows share an image.
        mine = [] if not len(images) or number % 3 == 0 else [number % len(images)]
        if len(images) and number % 3 == 2:
            mine = [*mine, 0]
        parts = [_text(model, draw(2, longest), generator)]
        for each in mine:
            parts += [torch.full((tokens[each],), model.image_token_id or 0), _text(model, draw(1, 4), generator)]
        ids.append(torch.cat(parts))
        shown.append(mine)
    lengths = torch.tensor([len(row) for row in ids])
    packed = Rows(lengths, {"ids": torch.cat(ids)}, {"prompt": torch.arange(rows), "sample": torch.zeros(rows)})
    flat = torch.tensor([each for mine in shown for each in mine], dtype=torch.int64)
    batch = Batch(packed, images, flat, torch.tensor([len(mine) for mine in shown]))
    return Batch(_with_columns(packed, model, generator), images, batch.shown, batch.counts)


def _text(model: ModelConfig, length: int, generator: torch.Generator) -> Tensor:
    """Ids that stand for no image."""
    allowed = torch.arange(model.vocab_size)
    kept = (allowed != (model.image_token_id or -1)) & (allowed != (model.video_token_id or -1))
    allowed = allowed[kept]
    return allowed[torch.randint(len(allowed), (length,), generator=generator)]


def _images(model: ModelConfig, generator: torch.Generator) -> Images:
    vision = model.vision
    if vision is None:
        return Images.none()
    step = vision.spatial_merge_size
    window = vision.window_size // vision.patch_size
    grids = torch.tensor([[1, step, step * 2], [1, step * 3, step], [1, window + step, step * 2], [1, step, step]])
    channels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    patches = torch.randn(int(grids.prod(1).sum()), channels, generator=generator)
    return Images(grids, patches, torch.zeros(len(grids)))


def _with_columns(rows: Rows, model: ModelConfig, generator: torch.Generator) -> Rows:
    """Random columns, and weights on a random part of the tokens that something predicts, normalised over all rows."""

    def random() -> Tensor:
        return torch.rand(rows.num_tokens, generator=generator)

    ids = rows.tokens["ids"]
    text = (ids != (model.image_token_id or -1)) & (rows.position > 0)
    usual = -torch.log(torch.tensor(float(model.vocab_size)))
    columns = {name: usual + 0.5 * random() for name in COLUMNS} | {"credit": 2 * random() - 1}
    trained = text & (random() < 0.7)
    first = torch.zeros_like(trained)
    first[rows.starts + 1] = text[rows.starts + 1]  # at least one token of every row
    trained = trained | first
    for number, stream in enumerate(STREAMS):
        used = trained & (random() < 0.8 if number else trained)
        columns[f"weight_{stream}"] = torch.where(used, random() / max(int(used.sum()), 1), 0.0)
    return rows.with_tokens(**columns, trained=trained)
