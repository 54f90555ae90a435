"""The families of models there is a weight table for: one file each, found by being in this folder.

    family.py       what a family is, and the registry that finds it by its word or by its architecture
    decoder.py      the lines that pre-norm decoders with gated FFNs have in common
    qwen2_5_vl.py, qwen2_5.py, llama.py

A family more takes one file here. The words of its `config.json` are read in `config/checkpoint.py`; other packages
may add one through the entry-point group `hpt_megatron.family`.

Example:
    >>> family_of("Qwen2ForCausalLM").name
    'qwen2_5'
"""

import importlib
import pkgutil

from hpt_megatron.weights.families.family import family_named, family_of

__all__ = ["family_named", "family_of"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
