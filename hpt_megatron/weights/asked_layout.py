"""The layout that an import is meant for (`--layout tp=2,pp=2`): whether the model can be laid out so.

A distributed checkpoint holds whole parameters and loads under every layout, so the files are the same whatever is
named. The option asks the rules of a run now, rather than when many devices are waiting, and the manifest keeps it.

Example:
    >>> read_layout("tp=2,pp=4")
    {'tp': 2, 'pp': 4}
"""

from dataclasses import replace
from typing import Any

from hpt_megatron.config.load import load
from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.problem import errors
from hpt_megatron.config.rules.layout import check_stages, check_tensor_parallel, check_vocabulary
from hpt_megatron.errors import UserError

SIZES = ("tp", "pp", "vpp")
"""What cuts a model; copies over cp and dp are whole."""
LARGEST = 4096


def read_layout(text: str) -> dict[str, int]:
    """Sizes by name; everything that is none is said at once."""
    found: dict[str, int] = {}
    wrong = []
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        right = size.isascii() and size.isdecimal() and 1 <= int(size[:9]) <= LARGEST
        if name not in SIZES or name in found or not right:
            wrong.append(repr(part))
        else:
            found[name] = int(size)
    if wrong:
        mend = f"sizes from 1 for some of {', '.join(SIZES)}, each once, as in tp=2,pp=2"
        raise UserError(f"{', '.join(wrong)} cannot be read", where="--layout", mend=mend)
    return found


def illegal(model: ModelConfig, sizes: dict[str, int]) -> list[str]:
    """Every rule of a run that the model breaks under these sizes."""
    chosen: Any = load(["layout=tp1"]).run
    plain = {"tp": 1, "pp": 1, "vpp": 1, "cp": 1, "dp": None}
    run = replace(chosen, model=model, layout=replace(chosen.layout, **{**plain, **sizes}))
    checks = (check_tensor_parallel, check_stages, check_vocabulary)
    return [f"{one.path} = {one.value} {one.why}" for check in checks for one in errors(check(run))]
