"""A checkpoint of any shape with random weights: `config.json` and safetensors, without tokenizer and processor.

For comparisons and measurements, where a shape matters and what the model says does not. Weights are drawn as the tiny
model's are, so nothing in them is constant.

Example:
    write_random(model, "/data/odd-shape", seed=3)
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from safetensors.numpy import save_file

from hpt_megatron.config.checkpoint import SAME_NAME
from hpt_megatron.config.model import ModelConfig
from hpt_megatron.embedded.model_config import model_config
from hpt_megatron.embedded.weights import draw

Spelling = Literal["older", "newer"]
ARCHITECTURES = {"qwen2_5": ("qwen2", "Qwen2ForCausalLM"), "llama3_1": ("llama", "LlamaForCausalLM")}


def write_random(model: ModelConfig, folder: str | Path, seed: int = 0, spelling: Spelling = "older") -> Path:
    """Writes the checkpoint into a folder, under the older or the newer names of tensors."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = model_config(model, model.vision) if model.vision else text_config(model)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = draw(model, seed)
    if spelling == "newer":
        tensors = {newer(name): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def newer(name: str) -> str:
    """The spelling that transformers has had since 4.52."""
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def text_config(model: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a family without a vision tower."""
    kind, architecture = ARCHITECTURES[model.family]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": model.rope_theta}
    if model.rope_scaling is not None:
        rope |= {"rope_type": "llama3", **asdict(model.rope_scaling)}
    return {
        **{name: getattr(model, name) for name in SAME_NAME},
        "architectures": [architecture],
        "model_type": kind,
        "attention_bias": model.attention_bias,
        "head_dim": model.head_dim,
        "tie_word_embeddings": model.tie_word_embeddings,
        "hidden_act": "silu",
        "dtype": "float32",
        "rope_theta": model.rope_theta,
        "rope_parameters": rope,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
    }
