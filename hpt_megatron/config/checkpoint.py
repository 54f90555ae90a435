"""What a checkpoint's `config.json` says about its shape, in the words of `ModelConfig`.

Hub files differ: text keys stand at the top or under `text_config`, rotary settings under `rope_scaling` or
`rope_parameters`, and the vision part leaves out most keys. What a file leaves out is filled with the family's own
defaults, but `hidden_size` and `tokens_per_second` of the tower must be in the file, because the class defaults for
them are not the model's.
"""

import json
from pathlib import Path
from typing import Any

from hpt_megatron.config.model import ModelConfig, RopeScaling, VisionConfig
from hpt_megatron.errors import UserError

FAMILIES = {"qwen2_5_vl": "qwen2_5_vl", "qwen2": "qwen2_5", "llama": "llama3_1"}
SAME_NAME = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
)
VISION_DEFAULTS: dict[str, Any] = {
    "depth": 32,
    "num_heads": 16,
    "intermediate_size": 3420,
    "out_hidden_size": 3584,
    "in_channels": 3,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
VISION_OTHER_NAMES = {"in_channels": "in_chans", "patch_size": "spatial_patch_size"}
PLACEHOLDERS = {"image_token_id": 151655, "video_token_id": 151656}
LLAMA_SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


class FamilyError(ValueError):
    """The file describes a model of a family that is not known."""


def shape_of(config: Any) -> dict[str, Any]:
    """Dotted keys of `ModelConfig` with the checkpoint's values; `KeyError` names what the file lacks."""
    if not isinstance(config, dict):
        raise ValueError("it holds no object")
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise FamilyError(f"model_type {kind!r} is none of the known families")
    family = FAMILIES[kind]
    text = {**config, **(config.get("text_config") or {})}
    rope = {**(text.get("rope_scaling") or {}), **(text.get("rope_parameters") or {})}
    shape = {"family": family} | {key: text[key] for key in SAME_NAME}
    shape["head_dim"] = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    shape["tie_word_embeddings"] = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    shape["rope_theta"] = float(rope.get("rope_theta") or text["rope_theta"])
    if family == "llama3_1":
        shape |= {f"rope_scaling.{key}": rope[key] for key in LLAMA_SCALING if key in rope}
    if family == "qwen2_5_vl":
        shape["mrope_section"] = tuple(rope["mrope_section"])
        shape |= {key: config.get(key, usual) for key, usual in PLACEHOLDERS.items()}
        shape |= {f"vision.{key}": value for key, value in _vision(config["vision_config"]).items()}
    return shape


def _vision(vision: dict[str, Any]) -> dict[str, Any]:
    shape: dict[str, Any] = {key: vision[key] for key in ("hidden_size", "tokens_per_second")}
    for key, default in VISION_DEFAULTS.items():
        shape[key] = vision.get(key, vision.get(VISION_OTHER_NAMES.get(key, ""), default))
    shape["fullatt_block_indexes"] = tuple(shape["fullatt_block_indexes"])
    return shape


def model_of(folder: str | Path) -> ModelConfig:
    """The model that a checkpoint's folder holds, for verbs that take a folder instead of a run."""
    file = Path(folder) / "config.json"
    mend = "give a folder in the Hugging Face layout (`hpt tiny OUT` writes one)"
    try:
        shape = shape_of(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file), mend=mend) from error
    except FamilyError as error:
        raise UserError(str(error), where=str(file), mend=f"a model_type of {', '.join(FAMILIES)}") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"describes no model: {error!r}", where=str(file), mend=mend) from error
    groups: dict[str, dict[str, Any]] = {"vision": {}, "rope_scaling": {}, "": {}}
    for path, value in shape.items():
        group, _, key = path.rpartition(".")
        groups[group][key] = value
    absent: dict[str, Any] = {"mrope_section": None, "image_token_id": None, "video_token_id": None}
    return ModelConfig(
        **{**absent, **groups[""]},
        path=str(folder),
        attention_bias=shape["family"] != "llama3_1",
        vision=VisionConfig(**groups["vision"]) if groups["vision"] else None,
        rope_scaling=RopeScaling(**groups["rope_scaling"]) if groups["rope_scaling"] else None,
    )
