"""The JSON files that tell transformers and vLLM what the tiny model is.

Invariants:
    1. Every id comes from the vocabulary; none is written down twice.
    2. `generation_config.json` carries the penalty and the near-zero temperature of the hub's checkpoints. Who samples
       without saying how gets them here as there: always pass explicit sampling parameters.
    3. The image processor is the one on torchvision (transformers' "fast" one). It and the PIL one differ by a grey
       level or so wherever they resize, so both sides of a run must use the same.
"""

from dataclasses import asdict
from typing import Any

from hpt_megatron.config.checkpoint import SAME_NAME
from hpt_megatron.config.model import ModelConfig, VisionConfig
from hpt_megatron.embedded.vocabulary import END_OF_TURN, PADDING, token_ids
from hpt_megatron.embedded.weights import INITIALIZER_RANGE

MIN_PIXELS, MAX_PIXELS = 28 * 28, 64 * 28 * 28  # 1 to 64 visual tokens per image
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def model_config(model: ModelConfig, vision: VisionConfig) -> dict[str, Any]:
    """The content of `config.json`, in the layout of transformers 5."""
    ids = token_ids()
    text = {name: getattr(model, name) for name in SAME_NAME}
    rope = {"rope_type": "default", "rope_theta": model.rope_theta, "mrope_section": model.mrope_section}
    shared = {"dtype": "float32", "hidden_act": "silu", "initializer_range": INITIALIZER_RANGE}
    ends = {"bos_token_id": ids[PADDING], "eos_token_id": ids[END_OF_TURN], "pad_token_id": ids[PADDING]}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "dtype": "float32",
        "image_token_id": ids["<|image_pad|>"],
        "model_type": "qwen2_5_vl",
        "text_config": {
            **text,
            **shared,
            **ends,
            "attention_dropout": 0.0,
            "model_type": "qwen2_5_vl_text",
            "rope_parameters": rope,
            "use_cache": True,
            "use_sliding_window": False,
        },
        "tie_word_embeddings": model.tie_word_embeddings,
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": {**asdict(vision), **shared, "model_type": "qwen2_5_vl_vision"},
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
    }


def generation_config() -> dict[str, Any]:
    """The content of `generation_config.json`."""
    ids = token_ids()
    return {
        "bos_token_id": ids[PADDING],
        "do_sample": True,
        "eos_token_id": [ids[END_OF_TURN], ids[PADDING]],
        "pad_token_id": ids[PADDING],
        "repetition_penalty": 1.05,
        "temperature": 1e-6,
    }


def preprocessor_config(vision: VisionConfig) -> dict[str, Any]:
    """The content of `preprocessor_config.json`."""
    return {
        "image_mean": CLIP_MEAN,
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "image_std": CLIP_STD,
        "max_pixels": MAX_PIXELS,
        "merge_size": vision.spatial_merge_size,
        "min_pixels": MIN_PIXELS,
        "patch_size": vision.patch_size,
        "processor_class": "Qwen2_5_VLProcessor",
        "temporal_patch_size": vision.temporal_patch_size,
    }
