"""Positions against those of the engine and of transformers, on the same rows.

Not covered: vLLM's pruned videos (its efficient video sampling), which this trainer does not take.
"""

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.multimodal.inputs import (
    MultiModalBatchedField,
    MultiModalFeatureSpec,
    MultiModalFieldElem,
    MultiModalKwargsItem,
    PlaceholderRange,
)

from hpt_megatron.config.load import load
from hpt_megatron.embedded.model_config import model_config
from hpt_megatron.mcore.packing.positions import Placeholders, row_positions

pytestmark = pytest.mark.slow

TINY = load(["model=tiny"]).run.model
HOLDERS = Placeholders.of(TINY)
TEXT = 7


def draw_row(seed, kinds, least_text=1):
    """Ids, grids in patches, and seconds, with 0 to 4 pictures of the given kinds."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    ids, grids, seconds = [TEXT] * draw(0, 4), [], []
    for _ in range(draw(0, 4)):
        kind = kinds[draw(0, len(kinds) - 1)]
        frames = draw(1, 8) if kind == "video" else 1
        height, width = draw(1, 5), draw(1, 5)
        ids += [HOLDERS.video if kind == "video" else HOLDERS.image] * (frames * height * width)
        ids += [TEXT] * draw(least_text, 4)
        grids.append((frames, 2 * height, 2 * width))
        seconds.append(float(torch.rand(1, generator=generator) * 2 + 0.01) if kind == "video" else 0.0)
    return torch.tensor(ids or [TEXT]), grids, seconds


def of_engine(ids, grids, seconds):
    """What vLLM computes for a request; its method reads nothing of the model but the vision sizes."""
    light = SimpleNamespace(config=SimpleNamespace(vision_config=TINY.vision))
    light.iter_mm_grid_thw = Qwen2_5_VLForConditionalGeneration.iter_mm_grid_thw.__get__(light)
    features, at = [], 0
    marks = HOLDERS.marks(ids).nonzero()[:, 0].tolist()
    for grid, between in zip(grids, seconds, strict=True):
        kind = "video" if between else "image"
        values = {f"{kind}_grid_thw": torch.tensor(grid)}
        if between:
            values["second_per_grid_ts"] = torch.tensor(between)
        data = MultiModalKwargsItem(
            {name: MultiModalFieldElem(data=value, field=MultiModalBatchedField()) for name, value in values.items()}
        )
        tokens = HOLDERS.tokens(grid)
        features.append(MultiModalFeatureSpec(data, kind, str(at), PlaceholderRange(marks[at], tokens)))
        at += tokens
    positions, _ = Qwen2_5_VLForConditionalGeneration.get_mrope_input_positions(light, ids.tolist(), features)
    return positions


def of_transformers(ids, grids, seconds):
    """What transformers computes for a row; its method reads the configuration only."""
    light = SimpleNamespace(config=Qwen2_5_VLConfig(**model_config(TINY, TINY.vision)))
    light.get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids.__get__(light)
    stills = [grid for grid, between in zip(grids, seconds, strict=True) if not between]
    videos = [grid for grid, between in zip(grids, seconds, strict=True) if between]
    positions, _ = Qwen2_5_VLModel.get_rope_index(
        light,
        ids[None],
        (ids == HOLDERS.image).int()[None] + 2 * (ids == HOLDERS.video).int()[None],
        image_grid_thw=torch.tensor(stills) if stills else None,
        video_grid_thw=torch.tensor(videos) if videos else None,
        second_per_grid_ts=torch.tensor([between for between in seconds if between]),
    )
    return positions[:, 0]


@pytest.mark.parametrize("seed", range(40))
def test_positions_of_images_and_videos_are_the_engine_s(seed):
    """Pictures side by side too; every token, exactly."""
    row = draw_row(seed, ["image", "video"], least_text=0)
    assert torch.equal(row_positions(*row, HOLDERS), of_engine(*row))


@pytest.mark.parametrize("seed", range(40))
def test_positions_of_still_images_are_those_of_transformers(seed):
    row = draw_row(seed, ["image"])
    assert torch.equal(row_positions(*row, HOLDERS), of_transformers(*row))


def test_a_long_video_is_where_transformers_goes_on_too_early():
    """Its text after 4 frames, 2 s apart, on one merged token starts at 1, before the video's own last frames, at 12.

    When this fails, transformers has changed, and the difference told in positions.py may be gone.
    """
    row = torch.tensor([HOLDERS.video] * 4 + [TEXT]), [(4, 2, 2)], [2.0]
    assert row_positions(*row, HOLDERS)[:, -1].tolist() == [13] * 3
    assert of_engine(*row)[:, -1].tolist() == [13] * 3
    assert of_transformers(*row)[:, -1].tolist() == [1] * 3
    assert row_positions(*row, HOLDERS)[0].tolist() == [0, 4, 8, 12, 13]
