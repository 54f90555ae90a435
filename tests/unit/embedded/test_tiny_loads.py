"""Real transformers loads what `write_tiny` wrote: weights, tokenizer, template, processor, a pass with an image."""

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from hpt_megatron.config.shapes import shapes
from hpt_megatron.embedded.folder import tiny_model, write_tiny
from hpt_megatron.embedded.vocabulary import SPECIAL, token_ids
from hpt_megatron.embedded.weights import draw

TINY = tiny_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_tiny(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    loaded, told = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told  # missing, unexpected and mismatched tensors, errors
    return loaded


def test_the_model_is_made_of_the_tensors_that_were_drawn(model):
    held = dict(model.named_parameters())
    drawn = draw(TINY)
    assert sum(tensor.numel() for tensor in held.values()) == 1_111_488
    assert len(held) == len(drawn)
    for name, tensor in drawn.items():
        inner = f"model.{name}" if name.startswith("visual") else name.replace("model.", "model.language_model.", 1)
        assert torch.equal(held[inner], torch.from_numpy(tensor)), name
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert model.dtype == torch.float32


def test_transformers_saves_it_under_the_same_names(model, tmp_path):
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "np") as saved:
        assert {name: tuple(saved.get_slice(name).get_shape()) for name in saved.keys()} == shapes(TINY)  # noqa: SIM118


def test_transformers_reads_the_sizes_that_were_meant(folder):
    read = AutoConfig.from_pretrained(folder)
    for name in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "intermediate_size", "vocab_size"):
        assert getattr(read.text_config, name) == getattr(TINY, name)
    assert read.text_config.rms_norm_eps == 1e-6
    assert read.text_config.rope_parameters["mrope_section"] == [4, 6, 6]
    assert read.text_config.rope_parameters["rope_theta"] == 10000.0
    assert (read.vision_config.tokens_per_second, list(read.vision_config.fullatt_block_indexes)) == (2, [1])
    assert read.vision_config.hidden_size == 64


def test_the_tokenizer_of_transformers_is_ours(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = token_ids()
    assert len(tokenizer) == len(ids) < TINY.vocab_size
    assert set(tokenizer.all_special_tokens) == set(SPECIAL)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (ids["<|im_end|>"], ids["<|endoftext|>"])
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [ids[name] for name in SPECIAL]
    text = "e\u0301 value k07 ? <answer>12</answer><|im_end|>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_generation_ends_at_the_end_of_a_turn_and_of_a_text(model):
    ids = token_ids()
    assert model.generation_config.eos_token_id == [ids["<|im_end|>"], ids["<|endoftext|>"]]
    assert model.generation_config.pad_token_id == ids["<|endoftext|>"]


def test_the_image_processor_is_the_one_on_torchvision(processor):
    """Where torchvision is not installed, transformers takes the PIL one instead; this notices it."""
    assert type(processor.image_processor).__name__ == "Qwen2VLImageProcessor"
    assert "torch" in type(processor.image_processor).__mro__[1].__name__.lower()


@pytest.mark.parametrize(
    ("size", "tokens"), [((28, 28), 1), ((56, 56), 4), ((84, 56), 6), ((224, 224), 64), ((448, 448), 64)]
)
def test_an_image_becomes_as_many_visual_tokens_as_its_size_says(processor, size, tokens):
    inputs = processor(text=["<|image_pad|>"], images=[Image.new("RGB", size)], return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[token_ids()["<|image_pad|>"]] * tokens]
    assert inputs["pixel_values"].shape == (4 * tokens, 1176)


def test_a_pass_with_an_image_sees_the_image(model, processor):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "color ?"}]}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>color ?<|im_end|>\n<|im_start|>assistant\n"
    )
    logits = []
    for colour in ((255, 0, 0), (0, 0, 255)):
        inputs = processor(text=[text], images=[Image.new("RGB", (56, 56), colour)], return_tensors="pt")
        assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 4
        with torch.no_grad():
            logits.append(model(**inputs).logits[0, -1])
    assert logits[0].shape == (512,)
    assert torch.isfinite(logits[0]).all()
    assert float((logits[0] - logits[1]).abs().max()) > 1e-3


def test_every_tensor_takes_part_in_a_pass_with_an_image(model, processor):
    inputs = processor(
        text=["<|image_pad|>color ?"], images=[Image.new("RGB", (56, 56), (9, 99, 199))], return_tensors="pt"
    )
    model(**inputs).logits.log_softmax(-1)[0, -1, 300].backward()
    without = [name for name, tensor in model.named_parameters() if tensor.grad is None or not tensor.grad.any()]
    model.zero_grad(set_to_none=True)
    assert without == []
