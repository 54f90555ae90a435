"""Patched functions that make the device "cuda" mean the CPU, for the whole process.

The reasons, one per patch, are in the docstring of the package; this file holds the table and the replacements.

Traps, each paid for by a line below:
    1. `with torch.device("meta")` recognises factory functions by identity in a set that torch fills on first use. It
       must be filled before they are replaced, or the context silently does nothing.
    2. `torch.manual_seed` calls `torch.cuda.manual_seed_all`. Only the generator is touched here, or they would call
       one another without end.
"""

import contextlib
import functools
import pkgutil
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _device

CPU = torch.device("cpu")


def _names_cuda(device: Any) -> bool:
    """True for the ways in which megatron-core names a GPU: "cuda", "cuda:0", torch.device("cuda"), 0."""
    kind = type(device)
    if kind is torch.device:
        return bool(device.type == "cuda")
    if kind is str:
        return bool(device.startswith("cuda"))
    return kind is int


def _factory(original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that makes a tensor where `device=` says."""

    @functools.wraps(original)
    def make(*args: Any, **kwargs: Any) -> Any:
        if "device" in kwargs and _names_cuda(kwargs["device"]):
            kwargs["device"] = CPU
        if "pin_memory" in kwargs:
            kwargs["pin_memory"] = False
        return original(*args, **kwargs)

    return make


def _move(original: Callable[..., Any]) -> Callable[..., Any]:
    """A method `to`, whose device comes first or by name."""

    @functools.wraps(original)
    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args and _names_cuda(args[0]):
            args = (CPU, *args[1:])
        elif "device" in kwargs and _names_cuda(kwargs["device"]):
            kwargs["device"] = CPU
        return original(self, *args, **kwargs)

    return to


def _itself(original: Callable[..., Any]) -> Callable[..., Any]:
    """A method that would copy the tensor to another memory."""

    @functools.wraps(original)
    def stay(self: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        return self

    return stay


def _cuda_type_name(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Tensor.type`, which without arguments answers a name."""

    @functools.wraps(original)
    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = original(self, *args, **kwargs)
        if isinstance(answer, str) and self.device.type == "cpu":
            return answer.replace("torch.", "torch.cuda.", 1)
        return answer

    return type_


def _instead(replacement: Any) -> Callable[[Any], Any]:
    """Puts something in the place of the original, whatever that was."""
    return lambda _original: replacement


class InertEvent:
    """An event of work that is already done."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def record(self, _stream: Any = None) -> None: ...

    def wait(self, _stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, _end: Any) -> float:
        return 0.0


class InertStream:
    """A stream on which everything is done when it is called."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def wait_stream(self, _stream: Any) -> None: ...

    def wait_event(self, _event: Any) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def record_event(self, event: InertEvent | None = None) -> InertEvent:
        return event or InertEvent()


STREAM = InertStream()


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(int(seed))


def _state(_device: Any = "cuda", **_kwargs: Any) -> torch.Tensor:
    return torch.default_generator.get_state()


def _set_state(new_state: torch.Tensor, _device: Any = "cuda") -> None:
    torch.default_generator.set_state(new_state)


FACTORIES = ("empty", "zeros", "ones", "full", "tensor", "arange", "empty_like", "Tensor.new_empty")
PATCHES: dict[str, Callable[[Any], Any]] = {
    **{f"torch.{name}": _factory for name in FACTORIES},
    "torch.Tensor.to": _move,
    "torch.nn.Module.to": _move,
    "torch.Tensor.cuda": _itself,
    "torch.Tensor.pin_memory": _itself,
    "torch.Tensor.type": _cuda_type_name,
    "torch.cuda.current_device": _instead(lambda: 0),
    "torch.cuda.set_device": _instead(lambda _device: None),
    "torch.cuda.synchronize": _instead(lambda _device=None: None),
    "torch.cuda.current_stream": _instead(lambda _device=None: STREAM),
    "torch.cuda.default_stream": _instead(lambda _device=None: STREAM),
    "torch.cuda.stream": _instead(contextlib.nullcontext),
    "torch.cuda.Stream": _instead(InertStream),
    "torch.cuda.Event": _instead(InertEvent),
    "torch.cuda.manual_seed": _instead(_seed),
    "torch.cuda.get_rng_state": _instead(_state),
    "torch.cuda.set_rng_state": _instead(_set_state),
    "torch.cuda.random.get_rng_state": _instead(_state),
}

_lock = threading.Lock()
_enabled = False


def place(path: str, replace: Callable[[Any], Any]) -> None:
    """Replaces what a dotted path names by `replace(original)`."""
    owner_path, name = path.rsplit(".", 1)
    owner = pkgutil.resolve_name(owner_path)
    setattr(owner, name, replace(getattr(owner, name)))


def enable() -> bool:
    """Makes "cuda" mean the CPU where there is no GPU; answers whether it does now."""
    global _enabled
    if torch.cuda.is_available():
        return False
    with _lock:
        if not _enabled:
            _device._device_constructors()  # trap 1
            for path, replace in PATCHES.items():
                place(path, replace)
            _enabled = True
    return True
