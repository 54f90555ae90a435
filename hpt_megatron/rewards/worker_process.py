"""What runs inside a worker: components asked over pipes, one line of JSON for each question and each answer.

    {"component": "hpt_megatron.rewards.mathematics:Mathematics", "settings": {...}}        is loaded and tests itself
    {"component": ..., "settings": {...}, "sample": {...}, "seconds": 5}                  scores a sample

Decision: JSON and never pickle, so nothing that a model wrote becomes more than text. Limits on memory and processor
time are the operating system's, set by the process on itself before it reads; the clock on the wall is the parent's.

Invariants
    1. One line in, one line out, in order; what a component prints reaches neither pipe.
    2. A component that raises is an answer; after memory ran out the process ends, for a new one to take its place.
    3. The end of the input ends the process, so none outlives its parent for longer than one job.

Example:
    >>> reply = answered({"component": "hpt_megatron.rewards.text:ExactMatch", "settings": {},
    ...                   "sample": {"turns": [], "answer": "4", "golds": ["4"]}}, {})
    >>> reply["score"], reply["valid"]
    (1.0, True)
"""

import importlib
import json
import math
import os
import resource
import sys
from dataclasses import asdict
from typing import Any

from hpt_megatron.rewards.component import ComponentError, Sample

MEBIBYTE = 1024 * 1024
LONGEST_MESSAGE = 300
Loaded = dict[str, Any]


def answered(job: dict[str, Any], loaded: Loaded) -> dict[str, Any]:
    """The answer to one line."""
    try:
        component = _component(job, loaded)
        if "sample" not in job:
            return {"ready": True}
        _limit_processor_time(job.get("seconds"))
        return asdict(component.score(Sample(**{key: _frozen(value) for key, value in job["sample"].items()})))
    except MemoryError:
        return {"failure": "memory", "what": "the worker's memory ran out", "ends": True}
    except ComponentError as error:
        return {"failure": error.flag, "what": str(error)[:LONGEST_MESSAGE]}
    except BaseException as error:  # an exit that a component asks for is a failure of the component as well
        return {"failure": "error", "what": f"{type(error).__name__}: {error}"[:LONGEST_MESSAGE]}


def _component(job: dict[str, Any], loaded: Loaded) -> Any:
    """By its class and settings, made once; one that can test itself does so first."""
    key = json.dumps([job["component"], job["settings"]], sort_keys=True)
    if key not in loaded:
        module, _, name = job["component"].partition(":")
        kind = getattr(importlib.import_module(module), name)
        component = kind(**{setting: _frozen(value) for setting, value in job["settings"].items()})
        if hasattr(component, "self_test"):
            component.self_test()
        loaded[key] = component
    return loaded[key]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _limit_processor_time(seconds: float | None) -> None:
    """The limit counts from the start of the process, so it moves with every job."""
    if seconds is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main(memory_mb: int) -> None:
    """Answers until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb * MEBIBYTE, memory_mb * MEBIBYTE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    loaded: Loaded = {}
    for line in sys.stdin.buffer:
        reply = answered(json.loads(line), loaded)
        try:
            written = json.dumps(reply)
        except (TypeError, ValueError) as error:
            written = json.dumps({"failure": "error", "what": f"its result is no JSON: {error}"[:LONGEST_MESSAGE]})
        replies.write(written + "\n")
        replies.flush()
        if reply.get("ends"):
            break
    os._exit(0)  # without the clean-up of packages that are loaded: some of it takes seconds


if __name__ == "__main__":
    main(int(sys.argv[1]))
