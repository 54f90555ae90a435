"""vLLM on a quantised folder, in a process of its own: what it says, and the weights that it says it with.

    python served.py FOLDER DTYPE REQUESTS ANSWERS WEIGHTS

REQUESTS is JSON, prompts with the path of an image or none; none at all where the processor lacks the kernel. WEIGHTS
gets the linear layers of the first decoder layer as the engine holds them, dequantised.
"""

import json
import os
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from vllm import LLM, SamplingParams
from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32
from vllm.scalar_type import scalar_types

LINEAR = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
NEW_TOKENS = 8


def held(layer) -> dict[str, torch.Tensor]:
    """A layer's weight as [rows, columns]; of int8, which oneDNN packs away, its scales and its rows' sums."""
    have = dict(layer.named_parameters())
    scale = have["weight_scale"].float()
    if "weight_packed" in have:  # blocks of 16 rows, one after the other; eight rows in 32 bits
        columns, rows = layer.input_size_per_partition, layer.output_size_per_partition
        packed = have["weight_packed"].view(-1, columns, 2).permute(1, 0, 2).reshape(columns, rows // 8)
        whole = unpack_quantized_values_into_int32(packed, scalar_types.uint4b8, 1).float() - 8
        return {"weight": (whole * scale.repeat_interleave(columns // len(scale), 0)).t().contiguous()}
    if "azp_adj" in have:
        return {"scale": scale.clone(), "sums": have["azp_adj"].flatten().clone()}
    return {"weight": (have["weight"].float() * scale.view(1, -1)).t().contiguous()}


def weights(model) -> dict[str, torch.Tensor]:
    """Of the first decoder layer; and one of the tower, which is not quantised."""
    first = model.language_model.model.layers[0]
    found = {f"{name}.{kind}": part for name in LINEAR for kind, part in held(first.get_submodule(name)).items()}
    return {**found, "visual": dict(model.visual.blocks[0].attn.qkv.named_parameters())["bias"].float().clone()}


def main(folder: str, dtype: str, requests: str, answers: str, written: str) -> None:
    """Loads, asks, writes."""
    engine = LLM(
        folder,
        dtype=dtype,
        max_model_len=512,
        max_num_seqs=8,
        enforce_eager=True,
        limit_mm_per_prompt={"image": 1, "video": 0},
        enable_prefix_caching=False,
        seed=0,
    )
    (found,) = engine.apply_model(weights)
    save_file(found, written)
    greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, logprobs=0)
    said = []
    for request in json.loads(requests):
        asked = {"prompt": request["prompt"]}
        if request["image"]:
            asked["multi_modal_data"] = {"image": Image.open(request["image"])}
        made = engine.generate([asked], greedy, use_tqdm=False)[0]
        (sample,) = made.outputs
        logps = [step[token].logprob for step, token in zip(sample.logprobs, sample.token_ids, strict=True)]
        said.append({"prompt": list(made.prompt_token_ids), "ids": list(sample.token_ids), "logps": logps})
    Path(answers).write_text(json.dumps(said))


if __name__ == "__main__":
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    main(*sys.argv[1:])
