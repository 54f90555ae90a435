"""From a command line to a checked run: the way in for every verb.

    loaded = load(["experiment=hpt-7b", "layout.tp=8"])
    loaded.run          RunConfig, complete even when problems were found
    loaded.problems     every error and warning, of the strings, of the types and of the rules together
    loaded.renamed      aliases, as what they became

`load_run` is for verbs that need a sound run: it refuses one with errors, listing all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hpt_megatron.config.aliases import RENAMED, VALUES
from hpt_megatron.config.compose import Sweep, compose, expand
from hpt_megatron.config.files import all_groups, check_folder
from hpt_megatron.config.overrides import Reading, alias_problem, read_overrides
from hpt_megatron.config.own_files import read_own
from hpt_megatron.config.problem import Problem, counted, errors
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
    return list(each_point(given, multirun=multirun, config_folder=config_folder)[1])


def each_point(given: list[str], *, multirun: bool, config_folder: Path | None = None) -> tuple[int, Iterator[Loaded]]:
    """How many points a command line has, and each of them, composed and checked when it is asked for."""
    folder = check_folder(config_folder)
    choices = all_groups(folder)
    sweep = expand(given, multirun=multirun)
    return len(sweep.points), (_load_point(point, sweep, choices, folder) for point in sweep.points)


def load_run(given: list[str], config_folder: Path | None = None) -> RunConfig:
    """A run without errors, or a `UserError` that lists all of them."""
    loaded = load(given, config_folder)
    found = errors(loaded.problems)
    if found:
        raise UserError("\n  ".join([f"the run has {counted(len(found), 'error')}:", *map(str, found)]))
    return loaded.run


def _load_point(point: list[str], sweep: Sweep, choices: dict[str, list[str]], folder: Path | None) -> Loaded:
    readable = [text for text in point if text not in sweep.refused]
    reading = read_overrides(readable, keys=KEYS, choices=choices)
    with TemporaryDirectory() as mended:
        reading.problems += _mend_own_files(reading, choices, folder, Path(mended))
        folders = [Path(mended), folder] if folder else []
        values, refused = compose(reading.kept, folders)
        in_files = _take_aliases(values, reading)
        run, misfits = read(RunConfig, values, values)
        if misfits:
            run, misfits = read(RunConfig, values, _spare_values(reading, misfits, folders))
    unreadable = {problem.path for problem in misfits}
    refused = [_of_null_group(problem, values) for problem in refused]
    found = [*sweep.problems, *reading.problems, *refused, *in_files, *misfits]
    found += [problem for problem in check(run) if problem.path not in unreadable]
    return Loaded(point, values, run, reading.renamed, found)


def _mend_own_files(
    reading: Reading, choices: dict[str, list[str]], folder: Path | None, mended: Path
) -> list[Problem]:
    """Checks the user's files that are chosen; of one that Hydra would refuse, `mended` gets what it can take."""
    problems: list[Problem] = []
    for text in list(reading.kept) if folder else []:
        group, _, choice = text.partition("=")
        choice = choice.strip("'\"")
        file = Path(folder or "") / group / f"{choice}.yaml"
        if group not in choices or not file.is_file():
            continue
        own = read_own(file, choices)
        problems += own.problems
        if own.text is None:
            reading.kept.remove(text)
        elif own.problems:
            (mended / group).mkdir(exist_ok=True)
            (mended / group / file.name).write_text(own.text, encoding="utf-8")
    return problems


def _of_null_group(problem: Problem, values: dict[str, Any]) -> Problem:
    """The refusal of a key inside an optional group that is null, said so; other problems as they are."""
    group, inside = "", values
    for part in problem.path.split(".")[:-1]:
        group, inside = f"{group}.{part}".lstrip("."), inside.get(part, {})
        if inside is None:
            return Problem(problem.path, problem.value, f"{group} is null in this model", "leave it out")
        if not isinstance(inside, dict):
            break
    return problem


def _spare_values(reading: Reading, misfits: list[Problem], folders: list[Path]) -> dict[str, Any]:
    """The same run without the overrides that cannot be read, over the default run for what files got wrong."""
    bad = {problem.path for problem in misfits}
    good = [text for text in reading.kept if not any(_covers(text.partition("=")[0], path) for path in bad)]
    spare, _ = compose(good, folders)
    _take_aliases(spare, Reading(kept=good))
    _, still = read(RunConfig, spare, spare)
    return compose([])[0] if still else spare


def _covers(key: str, path: str) -> bool:
    return path == key or path.startswith(f"{key}.")


def _take_aliases(values: dict[str, Any], reading: Reading) -> list[Problem]:
    """Names and values from elsewhere: moved to what they became, unless the command line set that too."""
    explicit = {text.partition("=")[0] for text in reading.kept}
    problems = _without_package(values)
    for keys, value in list(_leaves(values)):
        path = ".".join(keys)
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
        _drop(values, keys)
    for keys, value in list(_leaves(values)):
        path = ".".join(keys)
        if isinstance(value, str) and (path, value) in VALUES:
            reading.renamed.append((f"{path}={value}", f"{path}={VALUES[path, value]}"))
            _put(values, path, VALUES[path, value])
    return problems


def _without_package(values: dict[str, Any]) -> list[Problem]:
    """An experiment without its first line lands in a group of its own, where nothing is read."""
    landed = values.pop("experiment", None)
    if landed is None:
        return []
    said = list(landed) if isinstance(landed, dict) else landed
    return [Problem("experiment", said, "its keys are read nowhere", "a file that begins with `# @package _global_`")]


def _leaves(values: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if not isinstance(key, str) or "." in key:
            continue  # a number or a dotted key in a file is no part of a path
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            return  # no group of keys, which is reported as such
    values[leaf] = value


def _drop(values: dict[str, Any], keys: tuple[str, ...]) -> None:
    head, *rest = keys
    if rest:
        _drop(values[head], tuple(rest))
        if values[head]:
            return
    del values[head]
