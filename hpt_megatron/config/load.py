"""From a command line to a checked run: the way in for every verb.

    loaded = load(["experiment=hpt-7b", "layout.tp=8"])
    loaded.run          RunConfig, complete even when problems were found
    loaded.problems     every error and warning, of the strings, of the types and of the rules together
    loaded.renamed      aliases, as what they became

`load_run` is for verbs that need a sound run: it refuses one with errors, listing all of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.config.aliases import RENAMED
from hpt_megatron.config.compose import compose, expand
from hpt_megatron.config.files import groups
from hpt_megatron.config.overrides import Reading, alias_problem, read_overrides
from hpt_megatron.config.problem import Problem, errors
from hpt_megatron.config.rules import check
from hpt_megatron.config.run import RunConfig
from hpt_megatron.config.typed import known_keys, read
from hpt_megatron.errors import UserError

KEYS = known_keys(RunConfig)


@dataclass(frozen=True)
class Loaded:
    """One run as it was asked for."""

    given: list[str]
    values: dict[str, Any]
    run: RunConfig
    renamed: list[tuple[str, str]]
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """No error; there may be warnings."""
        return not errors(self.problems)


def load(given: list[str], config_folder: Path | None = None) -> Loaded:
    """One run from override strings."""
    return load_points(given, multirun=False, config_folder=config_folder)[0]


def load_points(given: list[str], *, multirun: bool, config_folder: Path | None = None) -> list[Loaded]:
    """Every point of a command line; without `multirun` there is exactly one."""
    if config_folder is not None and not config_folder.is_dir():
        raise UserError("no such folder", where=f"--config-dir {config_folder}", mend="give a folder with groups in it")
    sweep = expand(given, multirun=multirun)
    return [_load_point(point, sweep.problems, config_folder) for point in sweep.points]


def load_run(given: list[str], config_folder: Path | None = None) -> RunConfig:
    """A run without errors, or a `UserError` that lists all of them."""
    loaded = load(given, config_folder)
    found = errors(loaded.problems)
    if found:
        raise UserError("\n  ".join([f"the run has {len(found)} errors:", *map(str, found)]))
    return loaded.run


def _load_point(point: list[str], before: list[Problem], config_folder: Path | None) -> Loaded:
    choices = groups()
    for name, extra in (groups(config_folder) if config_folder else {}).items():
        choices[name] = sorted({*choices.get(name, []), *extra})
    reading = read_overrides(point, keys=KEYS, choices=choices)
    values, refused = compose(reading.kept, config_folder)
    in_files = _take_aliases(values, reading)
    run, misfits = read(RunConfig, values, values)
    if misfits:
        run, misfits = read(RunConfig, values, _spare_values(reading, misfits, config_folder))
    unreadable = {problem.path for problem in misfits}
    found = [*before, *reading.problems, *refused, *in_files, *misfits]
    found += [problem for problem in check(run) if problem.path not in unreadable]
    return Loaded(point, values, run, reading.renamed, found)


def _spare_values(reading: Reading, misfits: list[Problem], config_folder: Path | None) -> dict[str, Any]:
    """The same run without the overrides that cannot be read, over the default run for what files got wrong."""
    bad = {problem.path for problem in misfits}
    good = [text for text in reading.kept if not any(_covers(text.partition("=")[0], path) for path in bad)]
    spare, _ = compose(good, config_folder)
    _, still = read(RunConfig, spare, spare)
    return compose([], config_folder)[0] if still else spare


def _covers(key: str, path: str) -> bool:
    return path == key or path.startswith(f"{key}.")


def _take_aliases(values: dict[str, Any], reading: Reading) -> list[Problem]:
    """Aliases in configuration files: moved to what they became, unless the command line set that too."""
    explicit = {text.partition("=")[0] for text in reading.kept}
    problems = []
    for path, value in list(_leaves(values)):
        if path in KEYS:
            continue
        refused = alias_problem(path, value)
        if refused is not None:
            problems.append(refused)
        elif path in RENAMED:
            reading.renamed.append((path, RENAMED[path]))
            if RENAMED[path] not in explicit:
                _put(values, RENAMED[path], value)
        else:
            continue
        _drop(values, path)
    return problems


def _leaves(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for key, value in values.items():
        path = f"{prefix}{key}"
        leaves += _leaves(value, f"{path}.") if isinstance(value, dict) and value else [(path, value)]
    return leaves


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[leaf] = value


def _drop(values: dict[str, Any], path: str) -> None:
    head, _, rest = path.partition(".")
    if rest:
        _drop(values[head], rest)
        if values[head]:
            return
    del values[head]
