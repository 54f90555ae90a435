"""vLLM serves what `hpt convert export --quantize` wrote: it holds the written weights, and says what they say.

fp8 and int8 are served here, greedy, with text and with an image, beside transformers computing with the dequantised
weights and the engine's own rounding of activations. Of int4_awq vLLM's loader takes the folder and packs its weights,
which are read back; its product exists for processors with AVX-512 and for GPUs, so no token is asked for.

Not covered: kernels of GPUs; speed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prompts import prompt_of

from hpt_megatron.weights.execute.importing import import_folder

pytestmark = pytest.mark.slow

FORMATS = {"fp8": "bfloat16", "int8": "float32", "int4_awq": "bfloat16"}
FUSED = {
    "self_attn.qkv_proj": [f"self_attn.{each}_proj" for each in "qkv"],
    "self_attn.o_proj": ["self_attn.o_proj"],
    "mlp.gate_up_proj": ["mlp.gate_proj", "mlp.up_proj"],
    "mlp.down_proj": ["mlp.down_proj"],
}
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
EXACT = any("vnni" in line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
"""Whether the processor adds products of 8-bit numbers in 32 bits; without, vLLM's int8 kernel does in 16 and clips."""


@pytest.fixture(scope="module", params=FORMATS)
def served(request, folder, processor, picture, tmp_path_factory):
    """The format, the folder that was written, and what an engine on it holds and says."""
    from hpt_megatron.weights.quantise.exporting import Quantising, export_quantised

    where = tmp_path_factory.mktemp(request.param)
    import_folder(folder, where / "checkpoint")
    export_quantised(where / "checkpoint", where / "out", Quantising(request.param))
    picture.save(where / "picture.png")
    asked = [
        {"prompt": prompt_of(processor, kind), "image": str(where / "picture.png") if kind == "image" else None}
        for kind in ("text", "image")
    ]
    asked = [] if request.param == "int4_awq" else asked
    paths = [str(where / name) for name in ("answers.json", "weights.safetensors")]
    command = [sys.executable, str(Path(__file__).with_name("served.py")), str(where / "out"), FORMATS[request.param]]
    done = subprocess.run(
        [*command, json.dumps(asked), *paths],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return request.param, where


def written(where):
    from safetensors.torch import load_file

    return load_file(where / "out" / "model.safetensors")


def test_the_engine_holds_the_weights_that_were_written(served, folder):
    """Of int8 each row's scale and sum: the numbers themselves lie in oneDNN's own packing."""
    import torch
    from safetensors.torch import load_file

    from hpt_megatron.weights.quantise.layout import dequantised

    form, where = served
    tensors, has = written(where), load_file(where / "weights.safetensors")
    for name, parts in FUSED.items():
        whole = torch.cat([dequantised(tensors, f"model.layers.0.{part}.weight") for part in parts])
        if form == "int8":
            scales = torch.cat([tensors[f"model.layers.0.{part}.weight_scale"] for part in parts])
            assert torch.equal(has[f"{name}.scale"], scales)
            torch.testing.assert_close(has[f"{name}.sums"], whole.sum(1), rtol=1e-4, atol=1e-5)
        else:
            # the engine keeps int4's scales in its own dtype
            torch.testing.assert_close(has[f"{name}.weight"], whole, rtol=0 if form == "fp8" else 2**-8, atol=0)
    plain = load_file(Path(folder) / "model.safetensors")["visual.blocks.0.attn.qkv.bias"]
    torch.testing.assert_close(has["visual"], plain, rtol=2**-8, atol=0)


def rounded(form, x):
    """Activations as the engine rounds them, and their scales: one for each token."""
    import torch

    most = x.float().abs().amax(-1, keepdim=True)
    if form == "int8":
        return (x / (most / 127)).round().clamp(-128, 127), most / 127
    return (x.float() / (most / 448)).clamp(-448, 448).to(torch.float8_e4m3fn).float(), most / 448


def product(form, tensors, name):
    """The forward of a quantised linear layer."""
    import torch

    weight, scale = tensors[name].float(), tensors[f"{name}_scale"].float().view(-1)
    bias = tensors.get(name.removesuffix("weight") + "bias")

    def forward(x):
        coarse, step = rounded(form, x)
        if form == "int8" and not EXACT:
            pairs = ((coarse + 128)[..., None, :] * weight).unflatten(-1, (-1, 2)).sum(-1)
            said = pairs.clamp(-(2**15), 2**15 - 1).sum(-1) - 128 * weight.sum(1)
        else:
            said = torch.nn.functional.linear(coarse, weight)
        said = said * step * scale
        return (said if bias is None else said + bias.float()).to(x.dtype)

    return forward


def network_of(form, where, folder, tensors):
    """Transformers' model, its decoder's linear layers computing with what was written; `None`: the plain model."""
    import torch
    from transformers import AutoModelForImageTextToText

    network = AutoModelForImageTextToText.from_pretrained(folder, dtype=getattr(torch, FORMATS[form])).eval()
    for name, module in network.named_modules():
        stored = name.replace("model.language_model", "model") + ".weight"
        if tensors is not None and f"{stored}_scale" in tensors:
            module.forward = product(form, tensors, stored)
    return network


def gap(network, processor, picture, answers):
    """The largest difference between log-probabilities of the engine's tokens here and there."""
    import torch

    apart = []
    for answer, image in zip(answers, (None, picture), strict=True):
        ids = torch.tensor([answer["prompt"] + answer["ids"]])
        seen = {}
        if image is not None:
            seen = dict(processor.image_processor(images=[image], return_tensors="pt"))
            seen["mm_token_type_ids"] = (ids == network.config.image_token_id).int()
        with torch.no_grad():
            spread = network(input_ids=ids, **seen).logits[0].float().log_softmax(-1)
        first = len(answer["prompt"]) - 1
        ours = [spread[first + at, token].item() for at, token in enumerate(answer["ids"])]
        apart += [abs(a - b) for a, b in zip(ours, answer["logps"], strict=True)]
    return max(apart)


def test_the_engine_says_what_the_written_weights_say(served, folder, processor, picture):
    """Nearer to them than to the weights before quantisation, which shows that the comparison can tell."""
    form, where = served
    answers = json.loads((where / "answers.json").read_text())
    if form == "int4_awq":
        assert answers == []
        return
    ours = gap(network_of(form, where, folder, written(where)), processor, picture, answers)
    plain = gap(network_of(form, where, folder, None), processor, picture, answers)
    # fp8 is served in bf16. The integer kernels of processors differ: 0.0005 apart on one, 0.003 on another.
    assert ours < {"fp8": 0.07, "int8": 5e-3}[form]
    assert ours < plain / {"fp8": 1, "int8": 4}[form]
