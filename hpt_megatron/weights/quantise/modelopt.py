"""A model in memory, quantised by ModelOpt, and written as ModelOpt writes it.

AWQ multiplies input channels by scales that the layer before has to take back. Norms take those of queries, keys,
values, gate and up (ModelOpt does it when it writes). Here the rows of `up` take those of `down`. Those of `o_proj`
have nowhere to go where several query heads share a value head, so it is quantised without: as AutoAWQ does, too.

Invariants
    1. No code of the folder is run, and nothing is downloaded.
    2. The written folder needs no scale at run time that vLLM does not know: `pre_quant_scale` is nowhere in it.
    3. The tower and the output matrix have the numbers that they had.
"""

import copy
import io
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.quantization.model_calib import max_calibrate
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging

from hpt_megatron.errors import UserError
from hpt_megatron.weights.quantise.calibration import Inputs
from hpt_megatron.weights.quantise.formats import KEPT, Format

ALONE = "*o_proj*"
SCALE = "_pre_quant_scale"


def load_model(folder: Path) -> Any:
    """The model as transformers has it, in the dtype of its tensors."""
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        loaded = kind.from_pretrained(folder, dtype="auto", trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        what = f"transformers does not load it: {str(error).splitlines()[0]}"
        raise UserError(what, where=str(folder), mend="see `hpt convert inspect`") from error
    return loaded.eval()


def quantise(model: Any, form: Format, rows: Sequence[Inputs]) -> None:
    """Replaces the linear layers by ModelOpt's, which compute with quantised weights."""
    config = copy.deepcopy(getattr(mtq, form.recipe))
    config["quant_cfg"] |= KEPT
    weights = config["quant_cfg"]["*weight_quantizer"]
    if form.calibrated:
        config["quant_cfg"][ALONE] = {"enable": False}

    def read(network: Any) -> None:
        for row in rows:
            network(**row, use_cache=False)

    with torch.no_grad(), quiet():
        mtq.quantize(model, config, read if form.calibrated else None)
        if form.calibrated:
            mtq.set_quantizer_by_cfg(model, {f"{ALONE}weight_quantizer": {**weights, "enable": True}})
            for name, module in model.named_modules():
                if name.endswith(".o_proj"):
                    max_calibrate(module)
                if hasattr(module, "down_proj") and hasattr(module, "up_proj"):
                    hand_over(module.down_proj, module.up_proj)


def hand_over(layer: Any, before: Any) -> None:
    """Lets the rows of one layer take the input scales of the one that follows it, channel by channel."""
    scale = getattr(layer.input_quantizer, SCALE, None)
    if scale is None:  # the tower's
        return
    before.weight.mul_(scale[:, None])
    delattr(layer.input_quantizer, SCALE)
    before.weight_quantizer.reset_amax()
    max_calibrate(before)


def write(model: Any, folder: Path) -> None:
    """As ModelOpt lays a quantised model out; its own words go nowhere."""
    with torch.no_grad(), quiet():
        export_hf_checkpoint(model, export_dir=folder)


class quiet(redirect_stdout[io.StringIO]):  # noqa: N801 - read as a statement
    """Nothing of what ModelOpt prints reaches the terminal; its errors are raised."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self._errors = redirect_stderr(io.StringIO())

    def __enter__(self) -> io.StringIO:
        self._level = logging.get_verbosity()
        logging.set_verbosity_error()
        self._errors.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        logging.set_verbosity(self._level)
        super().__exit__(*error)
        self._errors.__exit__(*error)
