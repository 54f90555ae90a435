"""The CPU device layer: what it changes, where it works, and that it leaves a GPU host alone.

Each test runs in a process of its own, since there is no way back. Not covered: a real GPU host (it is acted by
`torch.cuda.is_available` and `torch.version.cuda`), which the list of patched functions is compared on.
"""

import os
import pkgutil
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run
from torch.utils.checkpoint import checkpoint as recompute

from hpt_megatron import device
from hpt_megatron.device import autoload, cuda
from hpt_megatron.mcore import patches
from hpt_megatron.mcore.initialize import Rendezvous

pytestmark = pytest.mark.slow

OWNERS = (torch, torch.cuda, torch.cuda.random, torch.Tensor, torch.nn.Module)
MCORE = {**patches.ON_CPU, **patches.WITHOUT_FUSED_ADAM, **patches.EVERYWHERE}
IN_CODE = {*autoload.LIBRARIES, *cuda.PATCHES, *MCORE, *(f"logging:{name}" for name in patches.LOG_FILTERS_ON_CPU)}


def test_the_docstring_lists_every_change_and_no_other() -> None:
    """Names in the package's docstring against the tables in code."""
    assert device.__doc__
    lists = device.__doc__[device.__doc__.index("When torch is imported") :]
    assert re.findall(r"^    (\S+)", lists, re.MULTILINE) == sorted(IN_CODE, key=lists.index)


def test_the_page_lists_every_change_and_no_other() -> None:
    """The table of docs/device.md against the tables in code."""
    page = (Path(__file__).parents[2] / "docs" / "device.md").read_text(encoding="utf-8")
    first_cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`(\S+)`", cell)} == IN_CODE


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def attributes() -> dict[tuple[int, str], Any]:
    """Everything that a patch could have replaced, for a comparison by identity."""
    found = {(index, name): value for index, owner in enumerate(OWNERS) for name, value in vars(owner).items()}
    for path in MCORE:
        owner, name = path.rsplit(".", 1)
        found[-1, path] = getattr(pkgutil.resolve_name(owner), name)
    return found


def differences(before: dict[tuple[int, str], Any]) -> set[str]:
    """The names whose value is another object now; what an import added counts too."""
    after = attributes()
    return {key[1] for key in before.keys() | after.keys() if before.get(key) is not after.get(key)}


def twice(where: Rendezvous) -> tuple[set[str], set[str]]:
    """What the first and the second call change."""
    before = attributes()
    patches.apply()
    first, between = differences(before), attributes()
    patches.apply()
    assert cuda.enable()
    return first, differences(between)


def test_a_second_call_changes_nothing_and_the_first_no_more_than_listed() -> None:
    """By identity of every attribute of torch, torch.cuda, Tensor and Module, and of the places in megatron-core."""
    first, second = run(1, twice)[0]
    assert first == {path.rsplit(".", 1)[1] for path in cuda.PATCHES} | set(MCORE)
    assert second == set()


def on_a_gpu_host(where: Rendezvous) -> tuple[bool, set[str], set[str]]:
    """The same where torch says that there is a GPU."""
    torch.cuda.is_available = lambda: True
    before = attributes()
    on = cuda.enable()
    after_device = differences(before)
    patches.apply()
    return on, after_device, differences(before)


def test_nothing_of_the_device_layer_happens_on_a_host_with_a_gpu() -> None:
    """Torch stays as it is; megatron-core gets only what every host without fused kernels gets."""
    on, by_device, by_mcore = run(1, on_a_gpu_host)[0]
    assert (on, by_device) == (False, set())
    assert by_mcore == set(patches.WITHOUT_FUSED_ADAM) | set(patches.EVERYWHERE)


def cuda_means_cpu(where: Rendezvous) -> list[str]:
    """Every way in which megatron-core names a GPU; answers the devices found."""
    cuda.enable()
    found = []
    for name in ("cuda", "cuda:0", torch.device("cuda"), torch.device("cuda", 0), torch.cuda.current_device()):
        x = torch.ones(2, device=name, dtype=torch.bfloat16)
        module = torch.nn.Linear(2, 2).to(name).cuda(name)
        for tensor in (
            x,
            torch.empty(2, device=name, pin_memory=True),
            torch.tensor([1], device=name, pin_memory=True),
            torch.arange(3, device=name),
            torch.empty_like(x, device=name),
            x.new_empty(2, device=name),
            torch.full((2,), 1.0, device=name),
            x.to(name, torch.float32),
            x.to(device=name),
            x.cuda(name, non_blocking=True).pin_memory(),
            module.weight,
        ):
            found.append(str(tensor.device))
    assert x.type() == "torch.cuda.BFloat16Tensor"
    assert x.to(torch.float32).type() == "torch.cuda.FloatTensor"
    assert x.type(torch.float16).dtype == torch.float16
    with torch.cuda.stream(torch.cuda.Stream(device=0)):
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == 0
    return found


def test_cuda_means_cpu_in_every_way_megatron_names_it() -> None:
    """Factory functions, tensors, modules, streams and events."""
    assert run(1, cuda_means_cpu)[0] == ["cpu"] * 55


def what_other_libraries_ask(where: Rendezvous) -> tuple[Any, ...]:
    """What decides for or against CUDA elsewhere, and a context that patched functions could break."""
    cuda.enable()
    with torch.device("meta"):
        inside = torch.empty(2)
    asked = (torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda.is_initialized())
    return *asked, str(inside.device), str(torch.empty(2, device="meta").device)


def test_other_libraries_still_decide_for_the_cpu() -> None:
    """`is_available` stays False; the device context that transformers and vLLM use still reaches factory functions."""
    assert run(1, what_other_libraries_ask)[0] == (False, 0, False, "meta", "meta")


class InBackward(torch.autograd.Function):
    """Makes a tensor on "cuda" while autograd runs backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * torch.full((1,), 3.0, device="cuda")


def everywhere(where: Rendezvous) -> tuple[float, float, list[str]]:
    """Backward, recomputation inside backward, and another thread."""
    cuda.enable()
    x = torch.ones(1, requires_grad=True)
    InBackward.apply(x).sum().backward()
    y = torch.ones(1, requires_grad=True)
    again = recompute(lambda z: InBackward.apply(z) * torch.full((1,), 2.0, device="cuda"), y, use_reentrant=True)
    again.sum().backward()
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(str(torch.empty(1, device="cuda").device)))
    thread.start()
    thread.join()
    assert x.grad is not None
    assert y.grad is not None
    return x.grad.item(), y.grad.item(), seen


def test_it_works_in_backward_in_recomputation_and_in_other_threads() -> None:
    """The three places that a mode does not reach."""
    assert run(1, everywhere)[0] == (3.0, 6.0, ["cpu"])


def random_states(where: Rendezvous) -> bool:
    """Seeding, reading and writing through torch.cuda governs what is drawn here."""
    cuda.enable()
    torch.cuda.manual_seed(7)
    state = torch.cuda.get_rng_state()
    first = torch.rand(3)
    assert not torch.equal(first, torch.rand(3))
    torch.cuda.set_rng_state(state)
    again = torch.rand(3)
    torch.manual_seed(7)
    return bool(torch.equal(first, again) and torch.equal(first, torch.rand(3)))


def test_random_states_of_cuda_are_those_of_the_cpu() -> None:
    """`torch.manual_seed` seeds the same generator, without calling itself through the patch."""
    assert run(1, random_states)[0]


def test_torchvision_and_the_image_processor_of_qwen_work_in_a_fresh_process() -> None:
    """Real pixels through the processor whose import chain asks for torchvision, torchaudio and torchcodec."""
    code = """
import torchvision
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLImageProcessor
import numpy, PIL.Image
image = PIL.Image.fromarray(numpy.zeros((56, 84, 3), dtype=numpy.uint8))
out = Qwen2VLImageProcessor()(images=[image], return_tensors="pt")
print(torchvision.__version__.split("+")[0] != "", tuple(out["pixel_values"].shape), out["image_grid_thw"].tolist())
"""
    assert python(code) == "True (24, 1176) [[1, 4, 6]]"


def test_a_torch_built_for_cuda_is_left_alone() -> None:
    """Nothing is hidden and nothing declared where torch says which CUDA it was built for."""
    code = """
import sys, torch
torch.version.cuda = "13.0"
from hpt_megatron.device import autoload
autoload.register()
print([name for name in autoload.LIBRARIES if name in sys.modules], autoload._declared)
"""
    assert python(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0") == "[] []"


REPORT = """
import sys, warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import torch
from hpt_megatron.device import autoload
autoload.register()
hidden = [name for name in autoload.LIBRARIES if sys.modules.get(name, 0) is None]
print(hidden, any("torchvision may" in str(w.message) for w in seen))
"""


def test_a_package_whose_library_works_here_is_respected(tmp_path: Path) -> None:
    """A torchaudio with a library built for the CPU is not hidden; the real ones beside it, built for CUDA, are."""
    library = next((Path(torch.__file__).parent / "lib").glob("libshm.so"))  # a real library that needs no CUDA
    (tmp_path / "torchaudio" / "lib").mkdir(parents=True)
    (tmp_path / "torchaudio" / "__init__.py").touch()
    (tmp_path / "torchaudio" / "lib" / "_torchaudio.so").write_bytes(library.read_bytes())
    assert python(REPORT, PYTHONPATH=str(tmp_path)) == "['torchcodec'] False"


def test_a_library_that_cannot_be_read_never_fails_the_import_of_torch(tmp_path: Path) -> None:
    """It becomes a warning."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    (tmp_path / "torchvision" / "_C.so").touch()
    assert python(REPORT, PYTHONPATH=str(tmp_path)) == "[] True"
