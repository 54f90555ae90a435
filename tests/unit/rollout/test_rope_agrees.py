"""Ours, the trainer's and transformers' positions are the same for rows as an agent makes them."""

import random

from hpt_megatron.embedded.folder import tiny_model
from hpt_megatron.rollout.positions import positions


def rows(number):
    draw = random.Random(number)
    ids, grids = [5] * draw.randint(1, 4), []
    for _ in range(draw.randint(0, 4)):
        grid = (1, 2 * draw.randint(1, 6), 2 * draw.randint(1, 6))
        ids += [*[5] * draw.randint(0, 5), 11, *[7] * (grid[1] * grid[2] // 4), 12, *[6] * draw.randint(0, 3)]
        grids.append(grid)
    return ids, grids


def test_the_trainer_has_the_same():
    import torch

    from hpt_megatron.mcore.packing.positions import Placeholders, row_positions

    vision = tiny_model().vision
    for number in range(50):
        ids, grids = rows(number)
        theirs = row_positions(torch.tensor(ids), grids, [0.0] * len(grids), Placeholders(7, 8, vision))
        assert positions(ids, grids, 7).tolist() == theirs.tolist()


def test_transformers_has_the_same():
    import torch
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    config = Qwen2_5_VLConfig(
        image_token_id=7, video_token_id=8, vision_start_token_id=11, vision_end_token_id=12, vision_config={"depth": 1}
    )
    model = Qwen2_5_VLModel.__new__(Qwen2_5_VLModel)
    torch.nn.Module.__init__(model)
    model.config = config
    for number in range(20):
        ids, grids = rows(number)
        if not grids:
            continue
        tokens = torch.tensor([ids])
        kinds = (tokens == 7).int()
        theirs, _ = model.get_rope_index(
            input_ids=tokens,
            mm_token_type_ids=kinds,
            image_grid_thw=torch.tensor(grids),
            attention_mask=torch.ones_like(tokens),
        )
        assert positions(ids, grids, 7).tolist() == theirs[:, 0].tolist()
