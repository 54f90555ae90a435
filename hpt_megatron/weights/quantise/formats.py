"""The formats a checkpoint is quantised to: for each, ModelOpt's recipe and the words by which vLLM knows it.

    fp8        weights e4m3 with a scale for each output channel, activations e4m3 with a scale for each token
    int8       the same in integers of -127 to 127
    int4_awq   weights in 4 bits with a scale for each 128 of a row, after AWQ has evened out the input channels

fp8 is written as ModelOpt lays it out. vLLM 0.32 refuses ModelOpt's own layouts of int8 and int4_awq, whatever the
hardware, so the same numbers are written as `compressed-tensors`, which it serves.

Scales of activations are found as the tokens come (fp8, int8) or not at all (int4_awq, whose activations stay), so no
format depends on a guess of how large activations become; ModelOpt's fixed scales would.

Example:
    >>> FORMATS["int8"].config["format"], FORMATS["int4_awq"].calibrated
    ('int-quantized', True)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

GROUP = 128
"""Weights of a row that share a scale in int4_awq."""

Layout = Literal["modelopt", "int-quantized", "pack-quantized"]
KEPT = {"*visual*": {"enable": False}}
"""Beside the output matrix, which ModelOpt's own recipes leave alone."""


@dataclass(frozen=True)
class Format:
    """One of them; `recipe` is the name of a configuration in `modelopt.torch.quantization`."""

    name: str
    recipe: str
    layout: Layout
    calibrated: bool
    config: Mapping[str, Any]


def _compressed(layout: Layout, weights: Mapping[str, Any], activations: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `config.json` says of a folder in the compressed-tensors layout."""
    numbers = {"type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**numbers, "dynamic": False, **weights},
        "input_activations": None if activations is None else {**numbers, "dynamic": True, **activations},
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["re:.*visual.*", "lm_head"],
    }


INT8 = _compressed("int-quantized", {"num_bits": 8, "strategy": "channel"}, {"num_bits": 8, "strategy": "token"})
INT4 = _compressed("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": GROUP}, None)
FP8 = {
    "quant_method": "modelopt",
    "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN",
    "kv_cache_quant_algo": None,
    "ignore": ["lm_head", "model.visual*", "visual*"],  # either spelling of the tower
}
FORMATS = {
    each.name: each
    for each in (
        Format("fp8", "FP8_PER_CHANNEL_PER_TOKEN_CFG", "modelopt", False, FP8),
        Format("int8", "INT8_WEIGHT_ONLY_CFG", "int-quantized", False, INT8),
        Format("int4_awq", "INT4_AWQ_CFG", "pack-quantized", True, INT4),
    )
}
