"""The one file that speaks Hydra: sweeps are expanded, override strings composed, plain values returned.

Nothing of Hydra or OmegaConf leaves this file, neither a type nor the text of its grammar.
"""

import itertools
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer, ValueType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hpt_megatron.config.files import configs_folder
from hpt_megatron.config.own_files import yaml_line
from hpt_megatron.config.problem import Problem
from hpt_megatron.errors import UserError

MOST_POINTS = 1024
RUN = "train"
"""The root file of a run."""
REFUSALS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError)
"""What Hydra raises for strings and files that it cannot take; a file of the wrong encoding is a ValueError."""
ENDLESS = {ValueType.GLOB_CHOICE_SWEEP: "glob", ValueType.INTERVAL_SWEEP: "interval"}
"""Sweeps without a list of values; they are for search algorithms, and there is none here."""


@dataclass(frozen=True)
class Sweep:
    """The points of a command line (one, when nothing is swept), and the strings of it that cannot be composed."""

    points: list[list[str]]
    refused: frozenset[str]
    problems: list[Problem]


def expand(given: list[str], *, multirun: bool) -> Sweep:
    """Reads each string by Hydra's grammar; with `multirun`, `a=1,2` and `a=range(0,3)` become points.

    A refused string stays in its points, so that a point says all that was asked.
    """
    problems: list[Problem] = []
    refused: set[str] = set()
    axes: list[list[str]] = []
    for text in given:
        axis, problem = _axis(text, multirun)
        axes.append(axis)
        if problem:
            problems.append(problem)
            refused.add(text)
        if prod(map(len, axes)) > MOST_POINTS:
            mend = f"sweep fewer values at once; at most {MOST_POINTS} points"
            raise UserError("the sweep has too many points", where="--multirun", mend=mend)
    return Sweep([list(point) for point in itertools.product(*axes)], frozenset(refused), problems)


def _axis(text: str, multirun: bool) -> tuple[list[str], Problem | None]:
    """The strings that one string stands for, or itself and why it is refused."""
    key, _, value = text.partition("=")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        if "=" not in text:
            return [text], Problem(text, "", "is not an override", "key=value or group=choice")
        right = "a value of that grammar; quote what is special: key='...'"
        return [text], Problem(key, value, "cannot be read by Hydra's grammar", right)
    if not override.is_sweep_override():
        return [text], None
    key = override.get_key_element()
    if not multirun:
        return [text], Problem(key, value, "is a sweep", "add --multirun")
    if override.value_type in ENDLESS or getattr(override.value(), "shuffle", False):
        why = f"{ENDLESS.get(override.value_type or ValueType.ELEMENT, 'shuffle')} gives no list of points to check"
        return [text], Problem(key, value, why, "values (a,b), choice(...) or range(...)")
    try:
        values = _values(override)
    except REFUSALS as error:
        return [text], Problem(key, value, _first_line(error), "values (a,b), choice(...) or range(...)")
    return (values, None) if values else ([text], Problem(key, value, "sweeps over nothing", "at least one value"))


def _values(override: Override) -> list[str]:
    values = override.sweep_iterator(transformer=Transformer.encode)
    # A range may be endless (a step of 0): one more than is allowed is enough to refuse it.
    return [f"{override.get_key_element()}={value}" for value in itertools.islice(values, MOST_POINTS + 1)]


def compose(
    overrides: list[str], folders: Sequence[Path] = (), root: str = RUN
) -> tuple[dict[str, Any], list[Problem]]:
    """The values that the strings compose to; a string that Hydra refuses is left out and reported.

    Choices that do not ship are looked up in `folders`, the first that has one wins.
    """
    kept: list[str] = list(overrides)
    problems: list[Problem] = []
    while True:
        try:
            return _compose(kept, folders, root), problems
        except REFUSALS as error:
            culprit = _culprit(kept, folders, root)
            if culprit is None:
                raise UserError(_first_line(error), where="the configurations", mend="see --config-dir") from error
            key, _, value = culprit.partition("=")
            problems.append(Problem(key, value, _first_line(error), "see `hpt config show`"))
            kept.remove(culprit)


def _compose(overrides: list[str], folders: Sequence[Path], root: str) -> dict[str, Any]:
    if folders:
        return _composed(overrides, folders, root)
    return deepcopy(_shipped(tuple(overrides), configs_folder(), root))


@lru_cache(maxsize=64)
def _shipped(overrides: tuple[str, ...], configs: Path, root: str) -> dict[str, Any]:
    """Of files that ship alone, which do not change while a process lives: a quarter of a second, once."""
    return _composed(list(overrides), (), root)


def _composed(overrides: list[str], folders: Sequence[Path], root: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    quoted = ", ".join("'file://{}'".format(str(folder).replace("'", "\\'")) for folder in folders)
    search = [f"hydra.searchpath=[{quoted}]"] if folders else []
    with initialize_config_dir(config_dir=str(configs_folder()), version_base="1.3"):
        composed = hydra_compose(config_name=root, overrides=[*search, *overrides])
    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _culprit(overrides: list[str], folders: Sequence[Path], root: str) -> str | None:
    """The first string without which the ones before it compose."""
    for end in range(len(overrides)):
        try:
            _compose(overrides[: end + 1], folders, root)
        except REFUSALS:
            return overrides[end]
    return None


def _first_line(error: BaseException) -> str:
    """What went wrong, in one line; a wrapped error brings its cause and its key on the lines below."""
    if isinstance(error, yaml.YAMLError):
        return yaml_line(error)
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    if first.endswith(":") and rest:
        first = f"{first.partition(' raised while')[0]}: {rest[0].strip()}"
    key = next((line.partition(":")[2].strip() for line in rest if line.strip().startswith("full_key:")), "")
    return first.rstrip(".") + (f" (at {key})" if key else "")
