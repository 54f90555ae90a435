"""From a distributed checkpoint to a quantised folder that vLLM serves: `hpt convert export --quantize`.

First the checkpoint is streamed to a plain folder of the hub. ModelOpt loads that one, quantises it and writes its own
layout; from there tensors are streamed once more, into vLLM's. All of it happens inside the folder that is not yet
called OUT, and what was only in between is gone before it is.

ModelOpt holds the model in memory, in the dtype of its tensors: unlike every other conversion this one is as large as
the model.

Invariants
    1. Under the final name there is nothing, or everything, with the checksum of every tensor.
    2. Everything that is wrong is said at once, before anything is written.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.config.model import ModelConfig
from hpt_megatron.weights.carried import CONFIG, carry, state_of
from hpt_megatron.weights.execute.exporting import export_checkpoint, readable, write_tensors
from hpt_megatron.weights.execute.target import Target, manifest_of
from hpt_megatron.weights.progress import Progress
from hpt_megatron.weights.quantise.calibration import LENGTH, ROWS, SEED, Inputs, inputs_of, read_prompts
from hpt_megatron.weights.quantise.formats import FORMATS, GROUP, Format
from hpt_megatron.weights.quantise.layout import Written
from hpt_megatron.weights.quantise.modelopt import load_model, quantise, write
from hpt_megatron.weights.survey import refuse

HUB, MODELOPT = "plain", "modelopt"


@dataclass(frozen=True)
class Quantising:
    """What is asked for: a format by its name, and a file of prompts where there is one."""

    form: str
    calibration: Path | None = None


def export_quantised(
    source: str | Path, out: str | Path, asked: Quantising, dtype: str | None = None, like: str | Path | None = None
) -> dict[str, Any]:
    """Writes the folder; answers its manifest."""
    form = FORMATS[asked.form]
    folder = readable(source, like)
    assert folder.config is not None
    assert folder.model is not None
    refuse(folder.path, obstacles(folder.model, form), "take fp8 or int8")
    prompts = None
    if asked.calibration is not None:
        prompts = read_prompts(asked.calibration, folder.model.vision is not None)
    rows = inputs_of(folder.config, prompts) if form.calibrated else []
    plain = sum(4 * info.elements if dtype == "fp32" else info.nbytes for info in folder.infos.values())
    plan = {"what": "quantise", "source": state_of(folder.path), "form": form.name}
    with Target(out, plan, 2 * plain, resume=False) as target:
        export_checkpoint(source, target.beside / HUB, dtype, like)
        made = _made(target.beside, form, rows)
        with Progress(form.name, sum(info.nbytes for info in made.infos.values())) as progress:
            write_tensors(made, made.infos, target, progress)
        carry(target.beside / HUB, target.beside)
        _say_so(target.beside / CONFIG, form)
        for name in (HUB, MODELOPT):
            shutil.rmtree(target.beside / name)
        about = {"format": "safetensors", "quantised": form.name, "calibration": _calibration(form, asked.calibration)}
        manifest = manifest_of(target, about, made.infos)
        target.finish(manifest)
    return manifest


def _made(beside: Path, form: Format, rows: list[Inputs]) -> Written:
    """What ModelOpt makes of the plain folder; the model is out of memory again."""
    model = load_model(beside / HUB)
    quantise(model, form, rows)
    write(model, beside / MODELOPT)
    return Written(beside / MODELOPT, form.layout)


def obstacles(model: ModelConfig, form: Format) -> list[str]:
    """Why a model cannot have a format: rows that do not divide into groups."""
    if form.name != "int4_awq":
        return []
    sizes = {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "attention heads x head_dim": model.num_attention_heads * model.head_dim,
    }
    return [
        f"{name} {size} is no multiple of {GROUP}, as {form.name} needs" for name, size in sizes.items() if size % GROUP
    ]


def _calibration(form: Format, file: Path | None) -> str:
    """What the model read, for the manifest."""
    if not form.calibrated:
        return "none needed"
    if file is None:
        return f"{ROWS} rows of {LENGTH} tokens drawn from the tokenizer, seed {SEED}"
    return f"{file.name}, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"


def _say_so(config: Path, form: Format) -> None:
    """Adds to `config.json` what the tensors are."""
    table = json.loads(config.read_text(encoding="utf-8"))
    table["quantization_config"] = dict(form.config)
    config.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
