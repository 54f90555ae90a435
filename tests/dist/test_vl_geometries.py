"""Models of other shapes and families, each in one process and under a layout that its sizes make hard.

Fixed shapes, and shapes drawn from a seed. Not covered: sizes of real models (see `test_real_geometries.py` for what
can be said of them without their weights).
"""

import random
from pathlib import Path

import pytest
from small_vl import Layout, folder_of, outcome_of, reference, small_batch

from hpt_megatron.parity.compare import compare

pytestmark = pytest.mark.slow

CLOSE = 1e-5
TEXT = ("model.image_token_id=null", "model.video_token_id=null", "model.mrope_section=null", "model.vision=null")
QWEN = ("model.family=qwen2_5", *TEXT)
LLAMA = (
    "model=llama-3.1-8b",
    "model.attention_bias=false",
    "model.rope_scaling.factor=8",
    "model.rope_scaling.original_max_position_embeddings=64",
    *(f"model.{key}" for key in ("max_position_embeddings=512", "rope_theta=10000.0")),
)
CASES = {
    "untied": (("model.tie_word_embeddings=false",), Layout(tp=2, pp=2)),
    "tied over two stages": (("model.tie_word_embeddings=true",), Layout(pp=2, dp=2)),
    "vocabulary padded": (("model.vocab_size=501", "layout.vocab_multiple=8"), Layout(tp=4)),
    "vocabulary of which a rank has only padding": (("model.vocab_size=497", "layout.vocab_multiple=12"), Layout(tp=4)),
    "one KV head at tp 4": (("model.num_key_value_heads=1",), Layout(tp=4, cp=2)),
    "as many KV heads as queries": (("model.num_key_value_heads=4",), Layout(tp=2, cp=2)),
    "five layers on two stages": (("model.num_hidden_layers=5",), Layout(pp=2, cp=2)),
    "seven layers on four virtual stages": (("model.num_hidden_layers=7",), Layout(pp=2, vpp=2, tp=2)),
    "every block sees whole frames": (("model.vision.fullatt_block_indexes=[0,1]",), Layout(tp=2)),
    "windows alone": (("model.vision.fullatt_block_indexes=[]",), Layout(cp=2)),
    "Qwen2.5": (QWEN, Layout(tp=2, cp=2)),
    "Qwen2.5 untied over stages": ((*QWEN, "model.tie_word_embeddings=false"), Layout(pp=2, tp=2)),
    "Llama 3.1": (LLAMA, Layout(tp=2, pp=2)),
    "Llama 3.1 with context parallelism": (LLAMA, Layout(tp=4, cp=2)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the checkpoints of this file lie."""
    return tmp_path_factory.mktemp("models")


def differences(models: Path, given: tuple[str, ...], layout: Layout, spelling: str = "older") -> list[str]:
    """What is further from transformers than it may be, in one process and under the layout."""
    folder = folder_of(models, *(text for text in given if not text.startswith("layout.")), spelling=spelling)
    first = Layout(also=given).run(folder)
    batch = small_batch(first)
    theirs = reference(first, batch)
    found = []
    for each in (Layout(also=given), Layout(layout.tp, layout.pp, layout.vpp, layout.cp, layout.dp, 64, also=given)):
        ours, _ = outcome_of(each.run(folder), batch)
        found += [f"{each.name}: {one}" for one in compare(ours, theirs) if one.relative > CLOSE]
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_shape_says_what_transformers_says(models: Path, case: str) -> None:
    """Logits, losses, gradients."""
    given, layout = CASES[case]
    assert not differences(models, given, layout)


def test_the_newer_names_of_tensors_are_read(models: Path) -> None:
    """`model.language_model.*` and `model.visual.*`, as transformers has written since 4.52."""
    assert not differences(models, (), Layout(tp=2), spelling="newer")


@pytest.mark.parametrize("seed", range(4))
def test_a_drawn_shape_says_what_transformers_says(models: Path, seed: int) -> None:
    """Heads, groups, layers, sizes, windows and layout, all drawn."""
    draw = random.Random(seed)
    groups, per_group, head = draw.choice((1, 2, 4)), draw.choice((1, 2, 3)), draw.choice((4, 8, 12))
    heads = groups * per_group
    tp = draw.choice([size for size in (1, 2, 4) if heads % size == 0 and (groups % size == 0 or size % groups == 0)])
    layers, pp = draw.randint(3, 6), draw.choice((1, 2))
    cp = draw.choice((1, 2)) if tp * pp <= 4 else 1
    third = head // 2 // 4
    sections = [head // 2 - 2 * third, third, third] if third else [head // 2, 0, 0]
    hidden = heads * head  # transformers takes it for granted
    given = (
        f"model.num_key_value_heads={groups}",
        f"model.num_attention_heads={heads}",
        f"model.head_dim={head}",
        f"model.hidden_size={hidden}",
        f"model.vision.out_hidden_size={hidden}",
        f"model.num_hidden_layers={layers}",
        f"model.intermediate_size={tp * draw.randint(5, 13)}",
        f"model.mrope_section={sections}".replace(" ", ""),
        f"model.vision.depth={draw.randint(1, 3)}",
        "model.vision.fullatt_block_indexes=[0]",
        f"model.vision.intermediate_size={draw.randint(7, 31)}",
        f"model.vision.window_size={draw.choice((8, 16, 24))}",
        f"model.tie_word_embeddings={str(draw.random() < 0.5).lower()}",
        f"model.vocab_size={draw.randint(495, 600)}",
        "layout.vocab_multiple=4",
    )
    assert not differences(models, given, Layout(tp=tp, pp=pp, cp=cp))
