"""The layout that an import is meant for (`--layout tp=2,pp=2`): whether the model can be laid out so.

A distributed checkpoint holds whole parameters and loads under every layout, so the files are the same whatever is
named. The option asks the rules of a run now, rather than when many devices are waiting, and the manifest keeps it.

Example: a model of 4 heads has two rules against `tp=3`.
"""

from dataclasses import replace
from typing import Any

from hpt_megatron.config.load import load
from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.problem import errors
from hpt_megatron.config.rules.layout import check_stages, check_tensor_parallel, check_vocabulary

SIZES = ("tp", "pp", "vpp")
"""What cuts a model; copies over cp and dp are whole."""


def illegal(model: ModelConfig, sizes: dict[str, int]) -> list[str]:
    """Every rule of a run that the model breaks under these sizes."""
    chosen: Any = load(["layout=tp1"]).run
    plain = {"tp": 1, "pp": 1, "vpp": 1, "cp": 1, "dp": None}
    run = replace(chosen, model=model, layout=replace(chosen.layout, **{**plain, **sizes}))
    checks = (check_tensor_parallel, check_stages, check_vocabulary)
    return [f"{one.path} = {one.value}: {one.why}" for check in checks for one in errors(check(run))]
