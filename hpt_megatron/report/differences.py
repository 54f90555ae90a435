"""In which keys the configurations of some runs differ.

Example:
    >>> differences([{"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}])
    [('a.c', ['2', '3'])]
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hpt_megatron.observe.record import leaves

OWN = ("trainer.run_dir",)
"""What every run has for itself."""
MISSING = "(not there)"


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Keys with the value of each run, in the order of their names; none where there is one run."""
    flat = [dict(leaves(config)) for config in configs]
    keys = sorted({key for own in flat for key in own} - {*OWN})
    rows = [(key, [spelled(own[key]) if key in own else MISSING for own in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def everything(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """All keys of one configuration."""
    return sorted((key, spelled(value)) for key, value in leaves(config))


def spelled(value: Any) -> str:
    """A value as one would give it."""
    return value if isinstance(value, str) and value else json.dumps(value)
