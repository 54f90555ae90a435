"""Called by torch at the end of its import, in every process: lets libraries import that lean on torchvision.

Package indexes carry torchvision, torchaudio and torchcodec for Linux as CUDA builds. Beside a CPU build of torch
their libraries cannot load: torchvision and torchaudio then raise on import, and take transformers and vLLM along.

Decision: a library is broken exactly when it is linked against `libtorch_cuda` and torch has no accelerator. The file
itself is asked (its table of needed libraries holds the name), not its version: local tags ("+cu130", "+cpu") are
dropped by some indexes. A CPU build that really works is therefore left alone. One file per package is looked at,
which takes a few milliseconds.

Invariants: never raises (an exception here would fail every `import torch`), can be called again, does nothing where
torch is built for an accelerator. What it changes is listed in the docstring of `hpt_megatron.device`.
"""

import importlib.util
import mmap
import sys
import warnings
from pathlib import Path

LIBRARIES = {  # package: the library that its import loads
    "torchvision": "_C*.so",
    "torchaudio": "lib/*torchaudio*.so",
    "torchcodec": "libtorchcodec_*.so",
}
OPERATORS = ("nms", "qnms")  # those that torchvision registers a shape rule for without asking whether they are there

_declared: list[object] = []  # torch forgets operators when the object that declared them goes


def linked_against_cuda(folder: Path, pattern: str) -> bool:
    """True when one of a package's libraries needs torch's CUDA library."""
    for path in sorted(folder.glob(pattern))[:1]:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b"libtorch_cuda.so") >= 0
    return False


def broken_packages() -> list[str]:
    """The packages among LIBRARIES that are installed and cannot load without CUDA."""
    broken = []
    for name, pattern in LIBRARIES.items():
        # `import torchvision` imports torch first, which calls us while torchvision is half imported.
        spec = getattr(sys.modules[name], "__spec__", None) if name in sys.modules else importlib.util.find_spec(name)
        if spec is not None and spec.origin and linked_against_cuda(Path(spec.origin).parent, pattern):
            broken.append(name)
    return broken


def register() -> None:
    """What torch calls."""
    try:
        _register()
    except Exception as error:
        warnings.warn(f"hpt_megatron.device: torchvision may fail to import: {error!r}", stacklevel=2)


def _register() -> None:
    import torch  # here, because torch calls us while it is being imported

    if torch.version.cuda or torch.version.hip or getattr(torch.version, "xpu", None):
        return
    for name in broken_packages():
        if name != "torchvision":
            # Makes both `import` and `find_spec` say "not there". One that is being imported is left to fail.
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]
        elif not _declared:
            library = torch.library.Library("torchvision", "DEF")
            for operator in OPERATORS:
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _declared.append(library)
