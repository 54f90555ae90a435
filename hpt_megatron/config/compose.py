"""The one file that speaks Hydra: sweeps are expanded, override strings composed, plain values returned.

Nothing of Hydra or OmegaConf leaves this file.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hpt_megatron.config.files import configs_folder
from hpt_megatron.config.problem import Problem


@dataclass(frozen=True)
class Sweep:
    """The points of a command line (one, when nothing is swept) and the strings that could not be read."""

    points: list[list[str]]
    problems: list[Problem]


def expand(given: list[str], *, multirun: bool) -> Sweep:
    """Reads each string by Hydra's grammar; with `multirun`, `a=1,2` and `a=range(0,3)` become points."""
    parser = OverridesParser.create()
    problems: list[Problem] = []
    axes: list[list[str]] = []
    for text in given:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            key, _, value = text.partition("=")
            problems.append(
                Problem(key, value, _first_line(error), "a value of Hydra's grammar; quote what is special")
            )
            continue
        if not override.is_sweep_override():
            axes.append([text])
        elif multirun:
            axes.append([f"{override.get_key_element()}={value}" for value in _values(override)])
        else:
            problems.append(Problem(override.get_key_element(), text.partition("=")[2], "is a sweep", "add --multirun"))
    return Sweep([list(point) for point in itertools.product(*axes)], problems)


def compose(overrides: list[str], config_folder: Path | None = None) -> tuple[dict[str, Any], list[Problem]]:
    """The values that the strings compose to; a string that Hydra refuses is left out and reported."""
    kept: list[str] = list(overrides)
    problems: list[Problem] = []
    while True:
        try:
            return _compose(kept, config_folder), problems
        except (HydraException, OmegaConfBaseException) as error:
            culprit = _culprit(kept, config_folder)
            if culprit is None:
                raise
            key, _, value = culprit.partition("=")
            problems.append(Problem(key, value, _first_line(error), "see `hpt config show`"))
            kept.remove(culprit)


def _compose(overrides: list[str], config_folder: Path | None) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    search = [f"hydra.searchpath=['file://{config_folder}']"] if config_folder else []
    with initialize_config_dir(config_dir=str(configs_folder()), version_base="1.3"):
        composed = hydra_compose(config_name="train", overrides=[*search, *overrides])
    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _culprit(overrides: list[str], config_folder: Path | None) -> str | None:
    """The first string without which the ones before it compose."""
    for end in range(len(overrides)):
        try:
            _compose(overrides[: end + 1], config_folder)
        except (HydraException, OmegaConfBaseException):
            return overrides[end]
    return None


def _values(override: Override) -> list[str]:
    return [str(value) for value in override.sweep_iterator(transformer=Transformer.encode)]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
