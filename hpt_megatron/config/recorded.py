"""A run's configuration as it was written down, read again.

A key that a run did not have yet gets the value that it has by default, so that old runs stay readable; a value that
does not fit, and a key that nobody knows, are refused.

Example: run_of(json.loads(path.read_text()), str(path)).algorithm.switch_gate
"""

import json
from pathlib import Path
from typing import Any

from hpt_megatron.config.compose import compose
from hpt_megatron.config.problem import counted, errors
from hpt_megatron.config.rules import check
from hpt_megatron.config.run import RunConfig
from hpt_megatron.config.typed import read
from hpt_megatron.errors import UserError


def run_of(values: Any, where: str) -> RunConfig:
    """The run of nested plain values."""
    defaults, _ = compose([])
    run, problems = read(RunConfig, _filled(values, defaults), defaults)
    if problems:
        raise UserError(f"is no run of this version: {problems[0]}", where=where)
    return run


def recorded_run(path: Path) -> RunConfig:
    """The run of a file, without errors."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("cannot be read", where=str(path), mend="RUN/run.json of a run") from error
    run = run_of(values, str(path))
    found = errors(check(run))
    if found:
        raise UserError(
            "\n  ".join([f"the run has {counted(len(found), 'error')}:", *map(str, found)]), where=str(path)
        )
    return run


def _filled(values: Any, defaults: Any) -> Any:
    """What is there, and beside it what only the defaults have."""
    if not (isinstance(values, dict) and isinstance(defaults, dict)):
        return values
    return {**defaults, **{key: _filled(value, defaults.get(key)) for key, value in values.items()}}
