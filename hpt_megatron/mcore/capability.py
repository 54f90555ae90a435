"""Which CUDA-only parts of megatron-core this host has; asked once, before megatron-core is imported.

Decision: a part is there when what we need from it can be imported. Nothing else (versions, device names) is asked.

A part that is installed and cannot be imported is hidden. Megatron-core guards its imports with `except ImportError`,
but the bare `transformer_engine` package (without its extras) raises a RuntimeError, and the `apex` of the package
index is another project without optimizers. Hidden means: an `import` of it says "not there". `problem` keeps why.

Example:
    >>> transformer_engine().there
    False
"""

import importlib
import importlib.metadata
import sys
import warnings
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Part:
    """One optional part: there, absent (no problem to tell), or broken."""

    name: str
    there: bool
    version: str = ""
    problem: str = ""


def look(name: str, needed: str) -> Part:
    """Imports the module of a package that we need, and hides the package when that fails."""
    try:
        importlib.import_module(needed)
    except Exception as error:  # the bare transformer_engine raises RuntimeError, a missing library OSError
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return Part(name, there=False)
        sys.modules[name] = None  # type: ignore[assignment]
        return Part(name, there=False, problem=f"{type(error).__name__}: {error}")
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return Part(name, there=True, version=version)


@cache
def transformer_engine() -> Part:
    """Fused layers and attention: without it our norm, attention and Adam stand in."""
    return look("transformer_engine", "transformer_engine.pytorch")


@cache
def apex() -> Part:
    """NVIDIA's apex: its fused Adam is used when there is no Transformer Engine."""
    return look("apex", "apex.optimizers")


@cache
def fused_weight_gradient() -> Part:
    """apex's kernel that adds a weight's gradient to its buffer inside the matrix product."""
    return look("fused_weight_gradient_mlp_cuda", "fused_weight_gradient_mlp_cuda")


transformer_engine()
apex()
# Megatron-core says the same once per module that looks, at every import and in every process.
warnings.filterwarnings("ignore", message=".*not installed. Falling back to", module="megatron")
