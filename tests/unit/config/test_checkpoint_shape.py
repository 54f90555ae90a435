"""A run's stated shape against a checkpoint's `config.json`, in the spellings that the hub's files use."""

import json

import pytest

from hpt_megatron.config.load import load

SEVEN = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": False,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_config": {
        "hidden_size": 1280,
        "in_chans": 3,
        "spatial_patch_size": 14,
        "tokens_per_second": 2,
        "window_size": 112,
        "out_hidden_size": 3584,
    },
}


def nested(config):
    """The same file as newer libraries write it: text keys apart, rotary settings renamed."""
    text = {
        k: v
        for k, v in config.items()
        if k not in ("architectures", "model_type", "vision_config", "tie_word_embeddings")
    }
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": text.pop("rope_theta")}
    text.pop("rope_scaling")
    kept = {k: config[k] for k in ("architectures", "model_type", "vision_config", "tie_word_embeddings")}
    return {**kept, "text_config": {**text, "rope_parameters": rope}}


def problems(tmp_path, config, *overrides):
    (tmp_path / "config.json").write_text(json.dumps(config) if isinstance(config, dict) else config)
    return load([*overrides, f"model.path={tmp_path}"]).problems


@pytest.mark.parametrize("config", [SEVEN, nested(SEVEN)], ids=["flat", "nested"])
def test_the_hubs_spellings_agree_with_the_shipped_shape(tmp_path, config):
    assert [str(p) for p in problems(tmp_path, config, "experiment=hpt-7b")] == []


def test_every_difference_is_named_with_the_checkpoints_value(tmp_path):
    other = {**SEVEN, "num_hidden_layers": 36, "tie_word_embeddings": True}
    other["vision_config"] = {**SEVEN["vision_config"], "intermediate_size": 3456}
    found = {p.path: (p.value, p.right) for p in problems(tmp_path, other, "experiment=hpt-7b")}
    assert found == {
        "model.num_hidden_layers": (28, "36"),
        "model.tie_word_embeddings": (False, "true"),
        "model.vision.intermediate_size": (3420, "3456"),
    }


def test_llamas_rope_scaling_is_compared(tmp_path):
    llama = {
        **{k: SEVEN[k] for k in ("vocab_size", "tie_word_embeddings")},
        **{"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "rope_theta": 500000.0},
        **{"max_position_embeddings": 131072, "rms_norm_eps": 1e-05},
        "rope_scaling": {
            **{"factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            **{"original_max_position_embeddings": 8192, "rope_type": "llama3"},
        },
    }
    found = [p for p in problems(tmp_path, llama, "model=llama-3.1-8b") if "checkpoint" in p.why]
    assert [(p.path, p.value, p.right) for p in found] == [("model.rope_scaling.factor", 8.0, "16.0")]


@pytest.mark.parametrize(
    ("config", "why", "right"),
    [
        ({**SEVEN, "num_attention_heads": 0}, "does not describe a model", "published"),
        ({k: v for k, v in SEVEN.items() if k != "hidden_size"}, "lacks 'hidden_size'", "published"),
        ({**SEVEN, "model_type": "gemma"}, "model_type 'gemma'", "qwen2_5_vl, qwen2, llama"),
        ("{", "is no JSON", "copy it again"),
    ],
)
def test_a_wrong_file_says_what_is_wrong_with_it_and_what_to_do(tmp_path, config, why, right):
    (found,) = [p for p in problems(tmp_path, config, "experiment=hpt-7b") if p.path == "model.path"]
    assert why in found.why
    assert right in found.right
    assert ("llama" in found.right) == ("model_type" in found.why)


@pytest.mark.parametrize("config", ["{", "[]", '{"model_type": "gemma"}', '{"model_type": "qwen2_5_vl"}', '"text"'])
def test_a_file_that_is_no_known_configuration_is_one_problem(tmp_path, config):
    found = [p for p in problems(tmp_path, config, "experiment=hpt-7b") if p.path == "model.path"]
    assert len(found) == 1
    assert "config.json" in found[0].why
