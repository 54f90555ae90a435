"""The stated shape of the model: sound in itself, and the same as its checkpoint's."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from os.path import isfile  # unlike Path.is_file, it never raises
from pathlib import Path

from hpt_megatron.config.checkpoint import FAMILIES, FamilyError, shape_of
from hpt_megatron.config.problem import Problem
from hpt_megatron.config.run import RunConfig


def check_heads(run: RunConfig) -> Iterator[Problem]:
    """Query heads come in groups of KV heads."""
    model = run.model
    if model.num_attention_heads % model.num_key_value_heads:
        why = f"the {model.num_key_value_heads} KV heads do not divide it"
        yield Problem(
            "model.num_attention_heads", model.num_attention_heads, why, f"a multiple of {model.num_key_value_heads}"
        )


def check_positions(run: RunConfig) -> Iterator[Problem]:
    """MRoPE's three sections cover half a head; a plain rope has none; only Llama 3.1 scales."""
    model = run.model
    sections = model.mrope_section
    if model.family == "qwen2_5_vl" and (sections is None or len(sections) != 3 or sum(sections) * 2 != model.head_dim):
        why = "time, height and width must add up to half of head_dim"
        yield Problem("model.mrope_section", sections, why, f"three numbers with the sum {model.head_dim // 2}")
    if model.family != "qwen2_5_vl" and sections is not None:
        yield Problem("model.mrope_section", sections, f"{model.family} has positions of one dimension", "null")
    if model.rope_theta <= 0 or model.rms_norm_eps <= 0:
        yield Problem("model.rope_theta", model.rope_theta, "rope_theta and rms_norm_eps must be above 0", "1000000.0")
    rope_scaling = model.rope_scaling
    if rope_scaling is not None and model.family != "llama3_1":
        yield Problem(
            "model.rope_scaling", rope_scaling.factor, f"{model.family} does not scale its frequencies", "null"
        )
    if rope_scaling is not None and (
        rope_scaling.factor < 1
        or rope_scaling.low_freq_factor >= rope_scaling.high_freq_factor
        or rope_scaling.original_max_position_embeddings > model.max_position_embeddings
    ):
        why = "asks for factor >= 1, low_freq_factor < high_freq_factor and original positions within the new ones"
        yield Problem("model.rope_scaling", asdict(rope_scaling), why, "8, 1, 4 and 8192, as in Llama 3.1")


def check_bias(run: RunConfig) -> Iterator[Problem]:
    """The Qwen families carry biases in query, key and value; Llama carries none."""
    model = run.model
    if model.attention_bias != (model.family != "llama3_1"):
        right = str(not model.attention_bias).lower()
        yield Problem("model.attention_bias", model.attention_bias, f"{model.family} is the other way round", right)


def check_vision(run: RunConfig) -> Iterator[Problem]:
    """The vision tower belongs to its family, and its parts fit together."""
    model, vision = run.model, run.model.vision
    if (vision is None) == (model.family == "qwen2_5_vl"):
        right = "null" if vision else "the sizes of a vision tower (see configs/model/)"
        yield Problem("model.vision", vision and "a tower", f"the family is {model.family}", right)
    if vision is None:
        return
    if vision.out_hidden_size != model.hidden_size:
        why = f"images enter the language model, whose hidden size is {model.hidden_size}"
        yield Problem("model.vision.out_hidden_size", vision.out_hidden_size, why, str(model.hidden_size))
    if vision.hidden_size % (4 * vision.num_heads):
        why = f"{vision.hidden_size} / num_heads must be a multiple of 4: two rotary axes, in pairs"
        yield Problem("model.vision.num_heads", vision.num_heads, why, "16 for 1280")
    merged = vision.patch_size * vision.spatial_merge_size
    if vision.window_size % merged:
        why = f"windows hold whole merged tokens of {merged} pixels (patch_size x spatial_merge_size)"
        yield Problem("model.vision.window_size", vision.window_size, why, f"a multiple of {merged}")
    beyond = [index for index in vision.fullatt_block_indexes if not 0 <= index < vision.depth]
    if beyond:
        why = f"the tower has blocks 0 to {vision.depth - 1}"
        yield Problem("model.vision.fullatt_block_indexes", beyond, why, "existing blocks")


def check_checkpoint(run: RunConfig) -> Iterator[Problem]:
    """Where a checkpoint is named, it exists and has the stated shape, key by key."""
    model = run.model
    if model.path is None:
        return
    file = Path(model.path) / "config.json"
    if not isfile(file):
        right = "a folder in the Hugging Face layout (`hpt tiny OUT` writes one)"
        yield Problem("model.path", model.path, "no config.json there", right)
        return
    try:
        real = shape_of(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        why, right = _unreadable(error)
        yield Problem("model.path", model.path, f"its config.json {why}", right)
        return
    stated = asdict(model)
    for path, value in real.items():
        group, _, leaf = path.rpartition(".")
        said = (stated[group] or {}).get(leaf) if group else stated[leaf]
        if said != value:
            yield Problem(f"model.{path}", said, f"the checkpoint in {model.path} says otherwise", json.dumps(value))


def _unreadable(error: Exception) -> tuple[str, str]:
    """Why a `config.json` says no shape, and what to do about it."""
    if isinstance(error, OSError):
        return f"cannot be opened: {error.strerror}", "a file that you may read"
    if isinstance(error, json.JSONDecodeError):
        return f"is no JSON: {error.msg} in line {error.lineno}", "the file as it was published; copy it again"
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8", "the file as it was published; copy it again"
    if isinstance(error, KeyError):
        return f"lacks {error.args[0]!r}", "the file as it was published"
    if isinstance(error, FamilyError):
        return f"cannot be read: {error}", f"a model_type of {', '.join(FAMILIES)}"
    return f"does not describe a model: {error}", "the file as it was published"
